"""What verbs read: audio from a file or stdin, texts and numbers."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from audio_tokenizers.audio_files import AudioInfo
    from lm_audio.pipeline import AudioPipeline

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


def read_samples(source: Any, model: "AudioPipeline") -> "tuple[Tensor, int]":
    """Audio at the rate and with the channels of a model."""
    from audio_tokenizers.audio_files import read_audio

    rate = model.sample_rate
    audio = read_audio(source, sample_rate=rate, num_channels=model.num_channels)
    return audio.samples, rate


def plain_text(prompt: str | None) -> str | None:
    """A prompt; a blank one is none."""
    return prompt if prompt and prompt.strip() else None


def number_of(name: str, value: str) -> float:
    """The number of a condition, as text."""
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"--condition {name} takes a number; got {value!r}.") from None
