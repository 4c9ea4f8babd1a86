"""The renderer of models of waveforms: their latents are the samples.

Shapes: C channels, N samples.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from audio_tokenizers.acoustic.streaming import StreamProgress
from lm_audio.renderers.blocks import render_whole
from lm_audio.signals import Signal

WAVEFORM = "waveform"
"""The content of the signal."""


@dataclass(frozen=True, kw_only=True)
class WaveformRenderer:
    """Samples to samples: a frame is a sample, its width the number of channels."""

    sample_rate: int
    num_channels: int

    def __post_init__(self) -> None:
        for name in ("sample_rate", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    @property
    def signal(self) -> Signal:
        return Signal(
            kind="latents",
            content=WAVEFORM,
            rate=Fraction(self.sample_rate),
            width=self.num_channels,
        )

    @property
    def encoder(self) -> "WaveformEncoder":
        return WaveformEncoder(self.num_channels)

    @property
    def identity(self) -> str:
        return f"waveform-{self.sample_rate}-{self.num_channels}"

    @property
    def hop_length(self) -> int:
        return 1

    def num_frames(self, num_samples: int) -> int:
        return num_samples

    def stream(self) -> "WaveformStream":
        return WaveformStream(self.num_channels)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        return render_whole(self, values, num_samples)


@dataclass(frozen=True)
class WaveformEncoder:
    num_channels: int

    def encode(self, samples: Tensor) -> Tensor:
        """Returns the samples [C, N], float32."""
        return _checked(samples, self.num_channels, "samples").float()

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples


class WaveformStream:
    """Passes samples on; holds none."""

    def __init__(self, num_channels: int) -> None:
        self._num_channels = num_channels
        self._progress = StreamProgress()

    def push(self, values: Tensor) -> Tensor:
        """Takes the next values [C, N >= 0] and returns them."""
        self._progress.advance(_checked(values, self._num_channels, "latents")[None])
        return values.float()

    def finish(self) -> Tensor:
        return self._progress.end(self._num_channels, torch.float32)[0]


def _checked(values: Tensor, num_channels: int, kind: str) -> Tensor:
    if values.ndim != 2 or len(values) != num_channels:
        raise ValueError(f"Expected {kind} of shape [{num_channels}, N], got {list(values.shape)}.")
    return values
