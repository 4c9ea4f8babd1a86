"""Sound in PNG files: their tags, what is read again, and files that are refused."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.containers import LongAudioError
from audio_tokenizers.image_files import encode_image
from audio_tokenizers.png import decode_png, encode_png
from audio_tokenizers.spectrogram_image import ImageSettings, mel_magnitudes

RATE = 44_100


def samples(seconds: float = 0.5, *, rate: int = RATE) -> Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    tones = [0.2 * torch.sin(2 * torch.pi * f * time) for f in (220.0, 440.0, 1000.0)]
    return (torch.stack(tones).sum(dim=0) * torch.exp(-4 * (time % 0.25)))[None]


def saved(folder: Path, data: bytes) -> Path:
    (folder / "x.png").write_bytes(data)
    return folder / "x.png"


def test_tags_are_those_of_riffusion() -> None:
    sound = samples()
    image: Any = Image.open(io.BytesIO(encode_image(sound, RATE, comment="rain")))
    loudest = float(mel_magnitudes(sound, ImageSettings()).max())
    assert image.size == (50, 512)
    assert image.mode == "RGB"
    assert image.text["Comment"] == "rain"
    assert dict(image.getexif()) == {
        11_000: 44_100, 11_005: 0, 11_010: 10, 11_020: 100, 11_030: 400, 11_040: 512, 11_050: 0,
        11_060: 10_000, 11_070: 0.25, 11_080: pytest.approx(loudest * 32_768), 11_090: 22_050,
    }  # fmt: skip
    pixels = np.array(image)
    assert pixels.min() == 0  # the loudest
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_file_is_read_as_audio(tmp_path: Path, num_channels: int) -> None:
    sound = samples(0.523)
    if num_channels == 2:
        sound = torch.cat([sound, 0.25 * sound.flip(1)])
    path = saved(tmp_path, encode_image(sound, RATE, comment='{"lm-audio": "0"}'))
    info = audio_info(path)
    assert (info.format, info.sample_rate, info.num_channels) == ("png", RATE, num_channels)
    assert info.num_samples == sound.shape[1]
    assert info.comment == '{"lm-audio": "0"}'
    made = read_audio(path).samples
    assert made.shape == sound.shape
    settings = ImageSettings()
    before, after = (mel_magnitudes(x, settings)[..., 10:-10] for x in (sound, made))
    assert float((after - before).norm() / before.norm()) < 0.15
    assert torch.equal(read_audio(path).samples, made)  # nothing is random
    again = encode_image(made, RATE)
    shades = [decode_png(data).pixels.astype(int) for data in (path.read_bytes(), again)]
    assert abs(shades[0] - shades[1]).mean() < 6


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    path = saved(tmp_path, encode_image(samples(0.5, rate=16_000), 16_000))
    assert read_audio(path).samples.shape == (1, 22_050)
    assert read_audio(path, sample_rate=16_000).samples.shape == (1, 8000)


def test_images_without_tags_have_the_usual_settings(tmp_path: Path) -> None:
    whole = decode_png(encode_image(samples(0.52), RATE))
    made = read_audio(saved(tmp_path, encode_png(replace(whole, exif={})))).samples
    assert made.shape == (1, 52 * 441)
    assert float(made.abs().max()) <= 1


def test_silence_and_a_single_sample_survive(tmp_path: Path) -> None:
    quiet = read_audio(saved(tmp_path, encode_image(torch.zeros(1, 4410), RATE))).samples
    assert quiet.shape == (1, 4410)
    assert float(quiet.abs().max()) < 1e-6
    short = read_audio(saved(tmp_path, encode_image(torch.full((1, 1), 0.5), RATE))).samples
    assert short.shape == (1, 1)


def test_what_is_no_spectrogram_is_refused(tmp_path: Path) -> None:
    data = encode_image(samples(), RATE)
    image = decode_png(data)
    for exif, message in (
        ({11_040: 100}, "its tags state 100 bands"),
        ({11_020: 90}, "is no spectrogram image: step_ms must be at most window_ms"),
        ({11_000: 1000}, "is no spectrogram image: Mel bands need"),
        ({11_030: 10_000_000}, "is no spectrogram image"),
    ):
        path = saved(tmp_path, encode_png(replace(image, exif={**image.exif, **exif})))
        with pytest.raises(ValueError, match=message):
            read_audio(path)
    with pytest.raises(ValueError, match=r"x.png is a truncated PNG image\."):
        read_audio(saved(tmp_path, data[:-100]))
    with pytest.raises(LongAudioError, match=r"is longer than the maximum of 0.1 s"):
        read_audio(saved(tmp_path, data), max_duration=0.1)
    with pytest.raises(ValueError, match="is limited to 2621 s, got 3000 s"):
        encode_image(torch.zeros(1, 3000), 1)
    with pytest.raises(ValueError, match="supports 1 or 2 channels, got 3"):
        encode_image(torch.zeros(3, 100), RATE)
