"""WAV of unknown length, for streaming.

Shapes: C channels, N samples.
"""

import struct

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
