"""Audio that verbs read: a file, or stdin."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from audio_tokenizers.audio_files import AudioInfo

STDIN = Path("-")


def audio_source(path: Path) -> Path | io.BytesIO:
    """The file, or all of stdin for -."""
    return io.BytesIO(sys.stdin.buffer.read()) if path == STDIN else path


def stem(path: Path) -> str:
    """What outputs are named after."""
    return "stdin" if path == STDIN else path.stem


def conversion(path: Path, info: "AudioInfo", *, sample_rate: int, num_channels: int) -> str | None:
    """A notice for audio that is resampled, or whose channels are mixed or repeated."""
    found, wanted = (info.sample_rate, info.num_channels), (sample_rate, num_channels)
    if found == wanted:
        return None
    name = "stdin" if path == STDIN else str(path)
    return f"{name}: converted from {sound(*found)} to {sound(*wanted)}"


def sound(sample_rate: int, num_channels: int) -> str:
    """24000 Hz mono"""
    from audio_tokenizers.audio_files import channel_layout

    return f"{sample_rate} Hz {channel_layout(num_channels)}"
