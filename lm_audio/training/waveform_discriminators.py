"""Discriminators of waveforms: at several rates, and folded by several periods.

As in MelGAN (arXiv 1910.06711) and HiFi-GAN (arXiv 2010.05646); the losses are in
`discriminators`.

Shapes: B batch, C channels, N samples.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lm_audio.training.discriminators import SLOPE, Judgement


@dataclass(frozen=True, kw_only=True)
class WaveformDiscriminatorConfig:
    width: int = 16
    """Width of the first layer; later ones are up to 16 times as wide."""
    num_layers: int = 4
    num_scales: int = 3
    """Number of rates, each half of the one before."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)


class WaveformDiscriminator(nn.Module):
    """All discriminators; their logits and features are one judgement."""

    def __init__(self, config: WaveformDiscriminatorConfig, *, num_channels: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            _ScaleNet(num_channels, config.width, config.num_layers)
            for _ in range(config.num_scales)
        )
        self.periods = nn.ModuleList(
            _PeriodNet(num_channels, config.width, config.num_layers, period=period)
            for period in config.periods
        )

    def forward(self, samples: Tensor) -> Judgement:
        """samples: [B, C, N]"""
        logits, features = [], []
        x = samples
        for net in self.scales:
            judged = net(x)
            logits.append(judged[-1].float().flatten(1))
            features += judged[:-1]
            x = F.avg_pool1d(x, 2)
        for net in self.periods:
            judged = net(samples)
            logits.append(judged[-1].float().flatten(1))
            features += judged[:-1]
        # Each discriminator counts alike in a mean over all logits.
        longest = max(part.shape[1] for part in logits)
        even = [F.interpolate(part[:, None], longest)[:, 0] for part in logits]
        return Judgement(logits=torch.cat(even, dim=1), features=features)


class _ScaleNet(nn.Module):
    """Strided convolutions over time."""

    def __init__(self, num_channels: int, width: int, num_layers: int) -> None:
        super().__init__()
        widths = [width * min(16, 2**i) for i in range(num_layers + 1)]
        layers: list[nn.Module] = [weight_norm(nn.Conv1d(num_channels, widths[0], 15, padding=7))]
        layers += [
            weight_norm(nn.Conv1d(widths[i], widths[i + 1], 9, stride=4, padding=4, groups=4))
            for i in range(num_layers)
        ]
        self.layers = nn.ModuleList(layers)
        self.out = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            found.append(x)
        return [*found, self.out(x)]


class _PeriodNet(nn.Module):
    """Convolutions over every p-th sample."""

    def __init__(self, num_channels: int, width: int, num_layers: int, *, period: int) -> None:
        super().__init__()
        self.period = period
        widths = [num_channels, *(width * min(16, 2**i) for i in range(num_layers))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(into, out, (5, 1), stride=(3, 1), padding=(2, 0)))
            for into, out in pairwise(widths)
        )
        self.out = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples: Tensor) -> list[Tensor]:
        folded = F.pad(samples, (0, -samples.shape[2] % self.period))
        x = folded.unflatten(2, (-1, self.period))  # [B, C, N / p, p]
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            found.append(x)
        return [*found, self.out(x)]
