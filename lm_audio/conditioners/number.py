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


class NumberConditioner(nn.Module):
    """Waves of the number, each twice as fast as the one before, and a linear layer.

    The slowest makes half a turn from `low` to `high`, so that no two numbers look alike.

    Args:
        num_waves: 8 of them tell steps of about 0.2 % of the range well apart.
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
            raise ValueError(f"The range goes from {low} to {high}; give two rising numbers.")
        if num_waves < 1:
            raise ValueError(f"num_waves is {num_waves}; use at least 1.")
        self.dim = dim
        self.low, self.high = low, high
        self.num_waves = num_waves
        self.null = Null(null, dim)
        self.projection = nn.Linear(2 * num_waves, dim)

    def forward(self, values: Sequence[float | None]) -> Condition:
        """Embeds B numbers, each to one entry."""
        return stack([self.null.embedding if v is None else self._embed(v) for v in values])

    def _embed(self, number: float) -> Tensor:
        is_number = isinstance(number, Real) and not isinstance(number, bool)
        if not is_number or not self.low <= number <= self.high:  # NaN is in no range
            raise ValueError(
                f"Got {number!r}; give a number from {self.low} to {self.high}, or None."
            )
        turn = math.pi * (float(number) - self.low) / (self.high - self.low)
        angles = turn * 2.0 ** torch.arange(self.num_waves, dtype=torch.float64)
        waves = torch.cat([angles.cos(), angles.sin()])[None]
        return self.projection(waves.to(self.projection.weight))  # [1, D]
