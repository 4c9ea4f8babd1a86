"""A window of a track that is being denoised, and the branches of guidance.

A loop is rolled between network passes, so that its joint is at another place in each.

Shapes: B batch, D latent width, T frames of a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lm_audio.generation.noise_schedule import Levels
from lm_audio.generation.solvers import Steps
from lm_audio.generation.track import Track
from lm_audio.networks.condition import Fused, Known
from lm_audio.sampling import Denoising

_GOLDEN = (5**0.5 - 1) / 2  # its multiples are spread evenly


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance: its conditions, B = 1, and its weight [T] or [1] in the output.

    Args:
        share: of the prompt in its branch; 1 without a blend.
        branch: the index of the branch.
    """

    fused: Fused
    weights: Tensor
    share: float = 1.0
    branch: int = 0


@dataclass(kw_only=True, eq=False)
class Window:
    """Frames of a track that are being denoised.

    Args:
        start, stop: the frames of the track; x has more if the network needs them.
        filled: frames per pass of the network.
        values, known: [D, T], 0 if unknown, and the mask [T] of known frames.
        noise: [D, T], added to the known frames.
        x, level: the noisy latents [D, T] to evaluate next, and their level.
    """

    track: Track
    start: int
    stop: int
    filled: int
    levels: Levels
    values: Tensor
    known: Tensor
    noise: Tensor
    rows: list[Row]
    steps: Steps

    def __post_init__(self) -> None:
        self.take(*next(self.steps))

    @property
    def done(self) -> bool:
        return self.level == self.levels.num_steps

    @property
    def active(self) -> list[Row]:
        """The branches to evaluate next: outside the interval of guidance, that of the prompts."""
        low, high = denoising_of(self.track).guidance_interval
        is_guided = low <= self.level / self.levels.num_steps < high
        return self.rows if is_guided else self.rows[-self._num_prompts :]

    @property
    def _num_prompts(self) -> int:
        """The rows of the branch with all prompts, the last one."""
        return sum(row.branch == self.rows[-1].branch for row in self.rows)

    def guided(self, outputs: Sequence[Tensor]) -> Tensor:
        """The output [D, T] that the active branches add up to."""
        first, *others = (
            row.share * output
            for row, output in zip(
                self.rows[-self._num_prompts :], outputs[-self._num_prompts :], strict=True
            )
        )
        prompted = sum(others, start=first)
        if len(outputs) < len(self.rows):
            return prompted
        total = torch.zeros_like(self.x)
        for row, output in zip(self.rows, outputs, strict=True):
            total = total + row.weights * output
        share = denoising_of(self.track).guidance_rescale
        if share and len(outputs) > self._num_prompts:
            total = total * (1 - share + share * prompted.std() / total.std().clamp(min=1e-8))
        return total

    @property
    def order(self) -> Tensor | None:
        """The indices of the frames of a loop that the next pass of the network gets; else None.

        A loop is rolled, so that its joint is elsewhere in each pass, and goes on at both ends.
        """
        if not self.track.loop:
            return None
        T = self.x.shape[1]
        shift = round(self.level * T * _GOLDEN) % T
        return (torch.arange(self.filled, device=self.x.device) - self._before - shift) % T

    def restored(self, output: Tensor) -> Tensor:
        """A pass's output [D, filled] in the order of x."""
        order = self.order
        if order is None:
            return output
        T = self.x.shape[1]
        inner = slice(self._before, self._before + T)
        ordered = torch.empty_like(output[:, inner])
        ordered[:, order[inner]] = output[:, inner]
        return ordered

    @property
    def _before(self) -> int:
        """Frames of a loop that a pass gets before all of them."""
        return (self.filled - self.x.shape[1]) // 2

    def take(self, x: Tensor, level: int) -> None:
        """Accepts latents from the solver and replaces the known frames."""
        alpha, sigma = self.levels.alpha[level], self.levels.sigma[level]
        at_end = level == self.levels.num_steps
        known = self.values if at_end else alpha * self.values + sigma * self.noise
        self.x, self.level = torch.where(self.known, known, x), level


def denoising_of(track: Track) -> Denoising:
    assert isinstance(track.sampling, Denoising)
    return track.sampling


def turned(condition: Fused, order: Tensor | None) -> Fused:
    """Conditions whose sum and stacked signal [1, T, D] are in the order of a loop's frames."""
    if order is None:
        return condition
    total, stacked = condition.sum, condition.stacked
    if total is not None and total.shape[1] > 1:
        total = total[:, order]
    return replace(condition, sum=total, stacked=None if stacked is None else stacked[:, order])


def in_order(window: Window, values: Tensor) -> Tensor:
    """Values [..., T] of a window in the order in which the network sees them."""
    return values if window.order is None else values[..., window.order]


def known_frames(windows: Sequence[Window]) -> Known:
    """The known frames of B windows of equal length, in the order of the noisy ones."""
    return Known(
        values=torch.stack([in_order(window, window.values) for window in windows]),
        mask=torch.stack([in_order(window, window.known) for window in windows]),
    )
