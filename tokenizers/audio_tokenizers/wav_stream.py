"""WAV of unknown length, for streaming.

Shapes: C channels, N samples.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

UNKNOWN = 0xFFFFFFFF  # the length of a file that is not finished


def wav_header(sample_rate: int, num_channels: int) -> bytes:
    """The header of 16-bit audio of unknown length."""
    block = 2 * num_channels
    form = struct.pack("<HHIIHH", 1, num_channels, sample_rate, block * sample_rate, block, 16)
    head = b"RIFF" + struct.pack("<I", UNKNOWN) + b"WAVE"
    return head + b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", UNKNOWN)


def pcm16(samples: Tensor) -> bytes:
    """Samples [C, N] as interleaved 16-bit little-endian PCM, clipped to full scale."""
    steps = (samples.T * 2**15).round().clamp(-(2**15), 2**15 - 1)
    return steps.contiguous().numpy().astype("<i2").tobytes()


def read_wav_stream(file: BinaryIO, *, block_samples: int = 4096) -> tuple[int, Iterator[Tensor]]:
    """The sample rate of a WAV that arrives through a pipe, and its samples [C, N] as they come.

    Reads 16-, 24- and 32-bit PCM and 32-bit float; the stated length may be unknown.
    """
    _exactly(file, 12)
    form = b""
    while True:
        name, size = struct.unpack("<4sI", _exactly(file, 8))
        if name == b"data":
            break
        chunk = _exactly(file, size + size % 2)
        form = chunk if name == b"fmt " else form
    if len(form) < 16:
        raise ValueError("stdin is not a WAV file: its format is missing.")
    kind, num_channels, sample_rate, _, _, bits = struct.unpack("<HHIIHH", form[:16])
    if kind == 0xFFFE and len(form) >= 26:  # an extensible format names the kind further on
        kind = struct.unpack("<H", form[24:26])[0]
    if (kind, bits) not in ((1, 16), (1, 24), (1, 32), (3, 32)) or num_channels == 0:
        raise ValueError(
            f"stdin is WAV of format {kind} with {bits} bits; expected PCM of 16, 24 or 32 bits, "
            "or 32-bit float."
        )
    left = None if size >= UNKNOWN - 2**16 else size
    return sample_rate, _pieces(file, left, num_channels, kind, bits // 8, block_samples)


def _pieces(
    file: BinaryIO, left: int | None, num_channels: int, kind: int, width: int, block_samples: int
) -> Iterator[Tensor]:
    frame = width * num_channels
    while left is None or left >= frame:
        wanted = frame * block_samples if left is None else min(left, frame * block_samples)
        data = file.read(wanted // frame * frame)
        data = data[: len(data) // frame * frame]
        if not data:
            return
        left = None if left is None else left - len(data)
        raw = np.frombuffer(data, np.uint8).reshape(-1, width)
        if kind == 3:
            values = np.frombuffer(data, "<f4")
        else:
            filled = np.zeros((len(raw), 4), np.uint8)
            filled[:, 4 - width :] = raw
            values = (filled.view("<i4")[:, 0] / 2**31).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("stdin contains NaN or infinite samples.")
        yield torch.from_numpy(values.reshape(-1, num_channels).T.copy())


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError("stdin is not a complete WAV file: it ends in its header.")
    return data
