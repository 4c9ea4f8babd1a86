"""Position encodings of a transformer: sinusoids, rotations, relative biases.

Shapes: B batch, H heads, S queries, L keys, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LONGEST_PERIOD = 10_000.0
_MOST_WAVES = 10**6


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of positions [B, S]: [B, S, D], float32; an odd D ends with a zero."""
    half = dim // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32)
    frequencies = torch.exp(exponents * -(math.log(_LONGEST_PERIOD) / (half - 1)))
    angles = positions[..., None].float() * frequencies
    both = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(both, (0, 1)) if dim % 2 else both


def rotation(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The cosines and sines [B, 1, S, dim / 2] that `rotate` needs at positions [B, S]."""
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    angles = positions[:, None, :, None].float() * _LONGEST_PERIOD**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates pairs of x [B, H, S, D], one from each half, by an angle (RoPE, arXiv 2104.09864)."""
    cos, sin = (part.to(x.dtype) for part in by)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def partly_rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the first half of each head of x [B, H, S, D], in float32."""
    half = x.shape[-1] // 2
    return torch.cat([rotate(x[..., :half].float(), turn).to(x.dtype), x[..., half:]], dim=-1)


class Waves(nn.Module):
    """Cosines, then sines, of numbers [B]: [B, 2 * num_waves], float32.

    Args:
        spaced: the lowest and the highest frequency, which are spaced exponentially; None: learned
            frequencies.
    """

    frequencies: Tensor

    def __init__(self, num_waves: int, spaced: tuple[float, float] | None = None) -> None:
        super().__init__()
        if not 1 <= num_waves <= _MOST_WAVES:
            raise ValueError(f"Expected 1 to {_MOST_WAVES} frequencies, got {num_waves}.")
        if spaced is None:
            self.frequencies = nn.Parameter(torch.randn(num_waves))
        else:
            low, high = map(math.log, spaced)
            ramp = torch.linspace(0, 1, num_waves, device="cpu")  # not stored, so never unfilled
            self.register_buffer(
                "frequencies", torch.exp(ramp * (high - low) + low), persistent=False
            )

    def forward(self, numbers: Tensor) -> Tensor:
        angles = numbers[:, None].float() * self.frequencies.float() * (2 * math.pi)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class RelativeBias(nn.Module):
    """A learned bias per head and distance, distances in growing buckets (T5, arXiv 1910.10683).

    Args:
        causal: all buckets are for keys before the query; else half are for keys after it.
    """

    def __init__(
        self, num_heads: int, *, causal: bool, num_buckets: int = 32, longest: int = 128
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_heads))
        self.causal = causal
        self.longest = longest

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Biases [B, H, S, L] between positions [B, S] and [B, L]."""
        behind = queries[:, :, None] - keys[:, None, :]  # [B, S, L]
        return self.weight[self._bucket(behind)].permute(0, 3, 1, 2)

    def _bucket(self, behind: Tensor) -> Tensor:
        num_buckets = len(self.weight)
        if self.causal:
            first, distance = torch.zeros_like(behind), behind.clamp(min=0)
        else:
            num_buckets //= 2
            first, distance = (behind < 0).long() * num_buckets, behind.abs()
        exact = num_buckets // 2  # small distances have a bucket each
        growth = (distance.clamp(min=1) / exact).log() / math.log(self.longest / exact)
        far = (exact + (growth * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
        return first + torch.where(distance < exact, distance, far)
