"""Continuous values of an earlier stage as a condition, at the times of a later stage's frames.

A later stage is trained with noise on these values, and with its level as another condition, so
that it does not rely on details that the earlier stage gets wrong (arXiv 2106.15282).

Shapes: B batch, C channels, T frames, F chosen frames.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.networks.condition import Condition, stack

LOBES = 16
"""Values on each side of a frame that its value is interpolated from."""
_ROLLOFF, _BETA = 0.95, 8.0


class AlignedSignal(nn.Module):
    """Interpolates values with a windowed sinc; beyond their ends they are 0. It has no weights.

    Args:
        dim: C.
        ratio: rate of the values over frame rate, at most 1; exact, so that long audio does not
            drift.
    """

    def __init__(self, dim: int, *, ratio: Fraction | int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}.")
        if not isinstance(ratio, Fraction | int) or not 0 < ratio <= 1:
            raise ValueError(f"ratio must be a Fraction above 0 and at most 1, got {ratio!r}.")
        self.dim = dim
        self.ratio = Fraction(ratio)

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """The values that these frames depend on; the first may be negative."""
        first = start * self.ratio // 1 - LOBES + 1
        return int(first), int((stop - 1) * self.ratio // 1) + LOBES + 1

    def forward(
        self, values: Sequence[Tensor | None], *, frames: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """The signals of B values [C, T] of any T, 0 for None: [B, F, C], float32.

        Args:
            frames: [F] or rows of it, consecutive; by default all that start within the longest
                value.
            first: the index of the first of the values.
        """
        if frames is None:
            T = max((value.shape[1] for value in values if value is not None), default=0)
            frames = torch.arange(max(1, -(-T * self.ratio.denominator // self.ratio.numerator)))
        row = frames.reshape(-1, frames.shape[-1])[0]
        start, stop = int(row[0]), int(row[-1]) + 1
        rows = [self._interpolated(value, start, stop, first, frames.device) for value in values]
        return torch.stack(rows).transpose(1, 2)

    def _interpolated(
        self, values: Tensor | None, start: int, stop: int, first: int, device: torch.device
    ) -> Tensor:
        """The frames from start to stop: [C, F]."""
        if values is None:
            return torch.zeros(self.dim, stop - start, device=device)
        if values.dim() != 2 or len(values) != self.dim:
            raise ValueError(f"Expected values [{self.dim}, T], got {list(values.shape)}.")
        step, phases = self.ratio.numerator, self.ratio.denominator
        kernels = torch.from_numpy(_kernels(step, phases)).to(device)  # [phases, 1, size]
        block = start // phases  # whole blocks of frames have the same phases
        num_blocks = -(-(stop - block * phases) // phases)
        begin = block * step - LOBES + 1
        end = begin + (num_blocks - 1) * step + kernels.shape[2]
        around = F.pad(values.to(device).float(), (first - begin, end - first - values.shape[1]))
        made = F.conv1d(around[:, None], kernels, stride=step)  # [C, phases, blocks]
        skipped = start - block * phases
        return made.transpose(1, 2).flatten(1)[:, skipped : skipped + stop - start]


class LevelConditioner(nn.Module):
    """A noise level from 0 to `most`, as it is.

    Args:
        default: in place of a level that is not given.
    """

    def __init__(self, dim: int = 1, *, most: float, default: float = 0.0) -> None:
        super().__init__()
        if not 0 <= default <= most <= 1:
            raise ValueError(
                "Noise levels must have 0 <= default <= most <= 1, got default "
                f"{default} and most {most}."
            )
        self.dim = dim
        self.most, self.default = most, default
        self.null = Null("zero", 1)

    def forward(self, values: Sequence[float | None]) -> Condition:
        """B levels, one entry each."""
        device = self.null.embedding.device
        return stack([torch.full((1, 1), self.level(v), device=device) for v in values])

    def level(self, value: float | None) -> float:
        if value is None:
            return self.default
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= self.most:  # NaN is in no range
            raise ValueError(
                f"Expected a noise level from 0 to {self.most}, or None, got {value!r}."
            )
        return float(value)


def augmented(values: Tensor, noise: Tensor, level: float) -> Tensor:
    """Values [C, T] with noise [C, T] of a level from 0, none, to 1, no signal."""
    angle = level * math.pi / 2
    return math.cos(angle) * values + math.sin(angle) * noise


@lru_cache(maxsize=16)
def _kernels(step: int, phases: int) -> np.ndarray:
    """The weights [phases, 1, size] of the values around a block of frames, from its first value's
    LOBES - 1 predecessors on."""
    size = (phases - 1) * step // phases + 2 * LOBES
    frames = np.arange(phases)[:, None] * step / phases  # in values from the first one
    distance = frames - (np.arange(size) - LOBES + 1)
    inside = np.clip(1 - (distance / LOBES) ** 2, 0, None)
    window = np.where(np.abs(distance) < LOBES, np.i0(_BETA * np.sqrt(inside)) / np.i0(_BETA), 0)
    kernels = _ROLLOFF * np.sinc(_ROLLOFF * distance) * window
    return kernels[:, None].astype(np.float32)
