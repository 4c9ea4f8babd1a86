"""One item in one stage: what is asked for, and what is known of its values.

Shapes: K codebooks or latent width, T frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lm_audio.networks.condition import Condition
from lm_audio.sampling import AnySampling
from lm_audio.signals import Signal


@dataclass(frozen=True, kw_only=True)
class Source:
    """The earlier stage whose values condition a stage, and the name of that condition."""

    stage: str
    condition: str


@dataclass(eq=False, kw_only=True)
class Track:
    """The values of one item in one stage, some of them known from the start.

    Args:
        values: tokens [K, T], int64, -1 where unknown; or latents [D, T], float32, NaN there.
        conditions: by name; those that are not given are missing.
        negative: what stands in for conditions that guidance drops, instead of nothing.
        embedded: conditions as the stage embedded them, by name and whether they are negative.
        source: the track of the earlier stage whose values condition this one.
        starts: the second at which each frame begins, for deduplicated tokens that in part come
            from sound; without it, all frames of a track are equally long.
        open_end: whether the stage may end it before T frames.
        candidate: tells apart tracks that differ in their random numbers alone.
        known: [T], the frames that were given.
        num_given: how many of them come before the first that was not.
        num_done: how many frames from the first on are known or made.
        in_work: how many more the work done on a window counts for, before any of it is final.
    """

    values: Tensor
    seed: int
    sampling: AnySampling
    conditions: Mapping[str, Any] = field(default_factory=dict)
    negative: Mapping[str, Any] = field(default_factory=dict)
    embedded: dict[tuple[str, bool], Condition] = field(default_factory=dict)
    source: "Track | None" = None
    starts: Sequence[float] | None = None
    open_end: bool = False
    candidate: int = 0
    known: Tensor = field(init=False)
    num_done: int = field(init=False)
    num_given: int = field(init=False)
    in_work: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.known = is_known(self.values)
        self.num_given = self.num_done = leading(self.known)

    @property
    def num_frames(self) -> int:
        return self.values.shape[1]

    @property
    def done(self) -> bool:
        return self.num_done == self.num_frames

    def learn(self, values: Tensor, *, start: int, num_done: int) -> None:
        """Takes in values [K, n] of the frames from `start` on.

        Args:
            num_done: how many frames from the first on are decided now.
        """
        self.values[:, start : start + values.shape[1]] = values
        self.num_done = max(self.num_done, num_done)

    def end(self, num_frames: int) -> None:
        """Ends the item here, whether these frames are decided yet or not."""
        self.values = self.values[:, :num_frames]
        self.num_done = min(self.num_done, num_frames)


class StageBatch(Protocol):
    """The tracks that a stage is working on."""

    def add(self, track: Track) -> None: ...

    def remove(self, track: Track) -> None:
        """Gives up a track, done or not."""

    def waiting(self) -> bool:
        """Whether some track that is not done lacks values of an earlier stage."""

    def step(self) -> bool:
        """Takes one step with all tracks that can; False if none could."""


class Stage(Protocol):
    """What the engine needs to know of a stage, whatever kind of model it has."""

    @property
    def name(self) -> str: ...

    @property
    def makes(self) -> Signal: ...

    @property
    def window_frames(self) -> int:
        """How many frames it sees at once."""

    @property
    def sampling(self) -> AnySampling: ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of what a user may give."""

    @property
    def source(self) -> Source | None: ...

    @property
    def deduplicated(self) -> bool:
        """Whether no token follows itself, so that tokens have no fixed length."""

    @property
    def may_end(self) -> bool:
        """Whether a clip may end before its duration."""

    @property
    def two_sided(self) -> bool:
        """Whether it sees what is known behind a span that it fills."""

    @property
    def first_codebook(self) -> int:
        """Where its rows begin among those of the renderer."""

    @property
    def device(self) -> torch.device: ...

    def check(self, track: Track) -> None:
        """Raises ValueError for what the user gave wrongly, before any work is done."""

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch: ...


def is_known(values: Tensor) -> Tensor:
    """Which frames [T] of values [K, T] are known in all their rows."""
    unknown = values.isnan() if values.is_floating_point() else values < 0
    return ~unknown.any(dim=0)


def leading(known: Tensor) -> int:
    """How many frames at the start of [T] are known."""
    unknown = (~known).nonzero()
    return int(unknown[0]) if len(unknown) else len(known)


def unknown_values(signal: Signal, num_frames: int, device: torch.device) -> Tensor:
    """The values [K, T] of a track of which nothing is known."""
    size = (signal.width, num_frames)
    return torch.full(size, signal.unknown, dtype=signal.dtype, device=device)
