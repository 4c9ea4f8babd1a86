"""A number within a range, such as a duration or a position in seconds.

Shapes: B batch, D width.
"""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null, NullKind
from lm_audio.networks.condition import Condition, stack
from lm_audio.networks.positions import Waves


class NumberConditioner(nn.Module):
    """Sines and cosines of the number with doubling frequencies, and a linear layer.

    The slowest covers half a period from `low` to `high`, so that embeddings are unique.

    Args:
        num_waves: the number of frequencies; 8 resolve about 0.2 % of the range.
    """

    def __init__(
        self,
        dim: int,
        low: float,
        high: float,
        *,
        num_waves: int = 8,
        null: NullKind = "learned",
    ) -> None:
        super().__init__()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"The range must have low < high, got {low} to {high}.")
        if num_waves < 1:
            raise ValueError(f"num_waves must be at least 1, got {num_waves}.")
        self.dim = dim
        self.low, self.high = low, high
        self.num_waves = num_waves
        self.null = Null(null, dim)
        self.projection = nn.Linear(2 * num_waves, dim)

    def forward(self, values: Sequence[float | None]) -> Condition:
        """Embeds B numbers, each to one entry."""
        return stack([self.null.embedding if v is None else self._embed(v) for v in values])

    def _embed(self, number: float) -> Tensor:
        if not _is_number(number) or not self.low <= number <= self.high:  # NaN is in no range
            raise ValueError(
                f"Expected a number from {self.low} to {self.high}, or None, got {number!r}."
            )
        turn = math.pi * (float(number) - self.low) / (self.high - self.low)
        angles = turn * 2.0 ** torch.arange(self.num_waves, dtype=torch.float64)
        waves = torch.cat([angles.cos(), angles.sin()])[None]
        return self.projection(waves.to(self.projection.weight))  # [1, D]


class ScaledNumber(nn.Module):
    """A number, scaled from a range to 0 to 1 and limited to that, as in Stable Audio.

    Waves and a linear layer; with learned frequencies, the number is an input of the layer, too.

    Args:
        spaced: as for `Waves`.
    """

    def __init__(
        self,
        dim: int,
        low: float,
        high: float,
        *,
        num_waves: int = 128,
        spaced: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"The range must have low < high, got {low} to {high}.")
        self.dim = dim
        self.low, self.high = low, high
        self.learned = spaced is None
        self.null = Null("zero", dim)
        self.waves = Waves(num_waves, spaced)
        self.projection = nn.Linear(2 * num_waves + self.learned, dim)

    def forward(self, values: Sequence[float | None]) -> Condition:
        """Embeds B numbers, each to one entry."""
        return stack([self.null.embedding if v is None else self._embed(v) for v in values])

    def _embed(self, number: float) -> Tensor:
        if not _is_number(number):
            raise ValueError(f"Expected a number, or None, got {number!r}.")
        weight = self.projection.weight
        scaled = torch.tensor([float(number)], device=weight.device).clamp(self.low, self.high)
        scaled = (scaled - self.low) / (self.high - self.low)
        inputs = self.waves(scaled)
        if self.learned:
            cosines, sines = inputs.chunk(2, dim=1)
            inputs = torch.cat([scaled[:, None], sines, cosines], dim=1)
        return self.projection(inputs.to(weight)).float()  # [1, D]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
