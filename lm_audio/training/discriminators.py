"""Discriminators that hear whether a waveform is real, and the losses of both sides.

Those of spectra (EnCodec, arXiv 2210.13438) look at complex STFTs of several resolutions; those of
periods (HiFi-GAN, arXiv 2010.05646) at every p-th sample. Hinge losses as in SoundStream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lm_audio.training.spectral_distance import spectrum

SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    window_lengths: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    spectrum_width: int = 32
    period_width: int = 32
    """Of the first layer; the last ones are 32 times as wide."""

    def __post_init__(self) -> None:
        if not self.window_lengths and not self.periods:
            raise ValueError("Got no window_lengths and no periods; give at least one of either.")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one discriminator says: logits [B, n], high for real, and its features [B, ...]."""

    logits: Tensor
    features: list[Tensor]


class Discriminators(nn.Module):
    """Several discriminators of one waveform, each with weights of its own."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [SpectrumDiscriminator(n, width=config.spectrum_width) for n in config.window_lengths]
            + [PeriodDiscriminator(p, width=config.period_width) for p in config.periods]
        )

    def forward(self, samples: Tensor) -> list[Judgement]:
        """samples: [B, 1, N]"""
        return [part(samples[:, 0]) for part in self.parts]


class SpectrumDiscriminator(nn.Module):
    """2-D convolutions over a complex spectrum, ever wider in time and coarser in frequency."""

    def __init__(self, window_length: int, *, width: int) -> None:
        super().__init__()
        self.window_length = window_length
        first = nn.Conv2d(2, width, (3, 9), padding=(1, 4))
        wider = [
            nn.Conv2d(width, width, (3, 9), stride=(1, 2), dilation=(step, 1), padding=(step, 4))
            for step in (1, 2, 4)
        ]
        last = nn.Conv2d(width, width, 3, padding=1)
        self.layers = nn.ModuleList(weight_norm(layer) for layer in (first, *wider, last))
        self.out = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, samples: Tensor) -> Judgement:
        """samples: [B, N]"""
        x = torch.stack(spectrum(samples, self.window_length), dim=1)  # [B, 2, frames, bins]
        return _judge(x, self.layers, self.out)


class PeriodDiscriminator(nn.Module):
    """Convolutions over every p-th sample, the same for each of the p phases."""

    def __init__(self, period: int, *, width: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, width, 4 * width, 16 * width, 32 * width]
        strided = [
            nn.Conv2d(into, out, (5, 1), stride=(3, 1), padding=(2, 0))
            for into, out in pairwise(widths)
        ]
        last = nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in (*strided, last))
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> Judgement:
        """samples: [B, N]"""
        padded = F.pad(samples, (0, -samples.shape[1] % self.period))
        x = padded.unflatten(1, (-1, self.period))[:, None]  # [B, 1, N / p, p]
        return _judge(x, self.layers, self.out)


def discriminator_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """What discriminators learn by: logits above 1 for real and below -1 for fake."""
    terms = [
        F.relu(1 - a.logits).mean() + F.relu(1 + b.logits).mean()
        for a, b in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).mean()


def adversarial_loss(fake: Sequence[Judgement]) -> Tensor:
    """What a generator learns by: logits above 1 for its own."""
    return torch.stack([F.relu(1 - judgement.logits).mean() for judgement in fake]).mean()


def feature_distance(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """The mean absolute difference of all layers' features, each over the mean of the real ones."""
    terms = [
        F.l1_loss(b.float(), a.detach().float()) / a.detach().float().abs().mean().clamp(min=1e-6)
        for mine, other in zip(real, fake, strict=True)
        for a, b in zip(mine.features, other.features, strict=True)
    ]
    return torch.stack(terms).mean()


def _judge(x: Tensor, layers: nn.ModuleList, out: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        features.append(x)
    return Judgement(logits=out(x).float().flatten(1), features=features)
