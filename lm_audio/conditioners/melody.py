"""A melody: the strongest pitch class of each moment of a recording, before the tokens.

The recording should be the melody alone, or clearly lead: voices and accompaniment are not
separated here. (audiocraft does so with Demucs, a separate network.)

Shapes: B batch, F frames of chroma, C pitch classes, N samples, D width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.resampling import resample
from lm_audio.clip import Clip
from lm_audio.conditioners.chroma import num_chroma_frames, strongest_classes
from lm_audio.conditioners.condition import Null
from lm_audio.networks.condition import Condition, stack


class MelodyConditioner(nn.Module):
    """A linear layer over one-hot chroma.

    Without a melody all frames have the first class, as those of silence.

    Args:
        window: samples per frame of chroma; frames are a quarter of it apart.
        seconds: the duration that the model takes at once; a shorter melody repeats.
    """

    def __init__(
        self, dim: int, *, sample_rate: int, window: int, seconds: float, num_classes: int = 12
    ) -> None:
        super().__init__()
        self.dim = dim
        self.sample_rate, self.window, self.seconds = sample_rate, window, seconds
        self.num_classes = num_classes
        self.null = Null("none", dim)
        self.projection = nn.Linear(num_classes, dim)

    @property
    def num_frames(self) -> int:
        """The number of entries of each condition."""
        return num_chroma_frames(self._most_samples, window=self.window)

    @property
    def _most_samples(self) -> int:
        return round(self.seconds * self.sample_rate)

    def forward(self, values: Sequence[Any | None], *, start: float = 0.0) -> Condition:
        """Embeds B melodies: paths, clips, or samples [C, N] with their rate.

        Args:
            start: the time in seconds, counted on through repetitions, at which each begins.
        """
        return stack([self._embed(value, start) for value in values])

    def read(self, value: Any) -> tuple[Tensor, int]:
        """The samples [1, N] of a melody and their rate, as values of their own."""
        return read_recording(value, sample_rate=self.sample_rate), self.sample_rate

    def _embed(self, value: Any | None, start: float) -> Tensor:
        chroma = torch.zeros(1, self.num_classes)
        chroma[:, 0] = 1
        if value is not None:
            samples = read_recording(value, sample_rate=self.sample_rate)[0]
            samples = samples.roll(-(round(start * self.sample_rate) % len(samples)))
            chroma = strongest_classes(
                samples[: self._most_samples],
                sample_rate=self.sample_rate,
                window=self.window,
                num_classes=self.num_classes,
            )
        repeats = -(-self.num_frames // len(chroma))
        chroma = chroma.repeat(repeats, 1)[: self.num_frames]
        return self.projection(chroma.to(self.projection.weight))  # [F, D]


def read_recording(value: Any, *, sample_rate: int, what: str = "A melody") -> Tensor:
    """The samples [1, N] of a path, a clip, or samples [C, N] with their rate.

    Args:
        what: names the value in errors.
    """
    if isinstance(value, str | Path):
        return read_audio(value, sample_rate=sample_rate, num_channels=1).samples
    samples, rate = (
        (value.samples, value.sample_rate) if isinstance(value, Clip) else _pair(value, what)
    )
    mono = samples.detach().cpu().float().mean(dim=0, keepdim=True)
    return resample(mono, rate, sample_rate)


def _pair(value: Any, what: str) -> tuple[Tensor, int]:
    is_pair = isinstance(value, list | tuple) and len(value) == 2
    if not (is_pair and isinstance(value[0], Tensor) and isinstance(value[1], int)):
        raise ValueError(
            f"{what} must be a path, a Clip, or samples [C, N] with their sample rate, got "
            f"{type(value).__name__}."
        )
    samples, rate = value
    if samples.ndim != 2 or not samples.numel() or not samples.isfinite().all():
        raise ValueError(f"{what} must have finite samples [C, N], got {list(samples.shape)}.")
    return samples, rate
