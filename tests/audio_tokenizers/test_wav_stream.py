"""WAV through a pipe: read as it comes, like libsndfile reads the file."""

import io
import struct
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audio_tokenizers.wav_stream import pcm16, read_wav_stream, wav_header


class Pipe(io.RawIOBase):
    """Gives bytes a few at a time, and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data.read(min(len(buffer), 1000))
        buffer[: len(part)] = part
        return len(part)


def read(data: bytes) -> tuple[int, torch.Tensor]:
    rate, pieces = read_wav_stream(io.BufferedReader(Pipe(data)), block_samples=64)
    return rate, torch.cat(list(pieces), dim=1)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "FLOAT"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_pipe_gives_the_samples_of_the_file(form: str, subtype: str, num_channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (501, num_channels)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 44_100, format=form, subtype=subtype)
    wanted = soundfile.read(io.BytesIO(file.getvalue()), dtype="float32", always_2d=True)[0].T
    rate, found = read(file.getvalue())
    assert rate == 44_100
    torch.testing.assert_close(found, torch.from_numpy(wanted.copy()), rtol=0, atol=1e-7)


def test_an_unknown_length_ends_with_the_pipe() -> None:
    samples = torch.linspace(-0.9, 0.9, 400).reshape(2, 200)
    rate, found = read(wav_header(48_000, 2) + pcm16(samples) + b"\x01")  # and half a sample
    assert rate == 48_000
    torch.testing.assert_close(found, samples, rtol=0, atol=1e-4)


def test_what_cannot_be_read_gets_one_sentence() -> None:
    header = wav_header(8_000, 1)
    for data, sentence in (
        (header[:30], r"stdin is not a complete WAV file: it ends in its header"),
        (header[:12] + header[36:], r"stdin is not a WAV file: its format is missing"),
        (header[:34] + struct.pack("<H", 8) + header[36:], r"WAV of format 1 with 8 bits; expec"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read(data)
    infinite = header[:20] + struct.pack("<H", 3) + header[22:34] + struct.pack("<H", 32)
    with pytest.raises(ValueError, match=r"stdin contains NaN or infinite samples"):
        read(infinite + header[36:] + struct.pack("<f", float("inf")))
