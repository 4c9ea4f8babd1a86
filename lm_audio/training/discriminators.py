"""A discriminator of band spectrograms, and the losses of both sides.

It treats a spectrogram of the codec's bands as an image, which is much cheaper than waveform
discriminators. Hinge losses as in SoundStream (arXiv 2107.03312).

Shapes: B batch, J spectra.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    widths: tuple[int, ...] = (24, 48, 64, 64)
    """Layer widths: the first layer halves the bands, all but the last also halve the time."""

    def __post_init__(self) -> None:
        if len(self.widths) < 2:
            raise ValueError(f"Expected the widths of at least 2 layers, got {self.widths}.")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The discriminator's output: logits [B, n], high for real, and its features [B, ...]."""

    logits: Tensor
    features: list[Tensor]


class Discriminator(nn.Module):
    """2-D convolutions over levels of bands; the index of the band is an input."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        widths = (2, *config.widths)
        strides = [(1, 2), *[(2, 2)] * (len(config.widths) - 2), (1, 1)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(into, out, 3, stride=stride, padding=1))
            for (into, out), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, levels: Tensor) -> Judgement:
        """levels: [B, J, bands]"""
        B, J, num_bands = levels.shape
        place = torch.arange(num_bands, device=levels.device) * (2 / num_bands) - 1
        x = torch.stack([(levels + 4) / 2, place.expand(B, J, -1)], dim=1)  # [B, 2, J, bands]
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return Judgement(logits=self.out(x).float().flatten(1), features=features)


def discriminator_loss(real: Judgement, fake: Judgement) -> Tensor:
    """The discriminator's loss: pushes logits above 1 for real and below -1 for fake."""
    return F.relu(1 - real.logits).mean() + F.relu(1 + fake.logits).mean()


def adversarial_loss(fake: Judgement) -> Tensor:
    """The generator's loss: pushes logits above 1 for its output."""
    return F.relu(1 - fake.logits).mean()


def feature_distance(real: Judgement, fake: Judgement) -> Tensor:
    """The mean absolute feature difference over all layers, relative to the real features; its
    gradient reaches the generator only."""
    terms = [
        F.l1_loss(made.float(), true.detach().float())
        / true.detach().float().abs().mean().clamp(min=1e-6)
        for true, made in zip(real.features, fake.features, strict=True)
    ]
    return torch.stack(terms).mean()
