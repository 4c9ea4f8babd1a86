"""One item in one stage: what it asks for, and what is known of its tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from lm_audio.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Source:
    """The earlier stage whose tokens condition a stage, and the name of that condition."""

    stage: str
    condition: str


@dataclass(eq=False, kw_only=True)
class Run:
    """The tokens of one item in one stage, some of them known from the start.

    Args:
        tokens: [K, T], int64; -1 is not decided yet.
        values: the conditions, by name; those that are not given are missing.
        negative: what stands in for conditions that guidance drops, instead of nothing.
        source: the run of the earlier stage whose tokens condition this one.
        starts: the second at which each frame begins, for de-duplicated tokens that in part come
            from sound; without it, all frames of a run are equally long.
        open_end: whether the stage may end it before T frames.
        variant: tells apart runs that differ in their random numbers alone.
        num_given: how many frames were known before the first that was not.
    """

    tokens: Tensor
    seed: int
    sampling: Sampling
    values: Mapping[str, Any] = field(default_factory=dict)
    negative: Mapping[str, Any] = field(default_factory=dict)
    source: "Run | None" = None
    starts: Sequence[float] | None = None
    open_end: bool = False
    variant: int = 0
    num_done: int = field(init=False)
    num_given: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_given = self.num_done = leading_known(self.tokens)

    @property
    def num_frames(self) -> int:
        return self.tokens.shape[1]

    @property
    def done(self) -> bool:
        return self.num_done == self.num_frames

    def learn(self, tokens: Tensor, *, start: int, num_done: int) -> None:
        """Takes in tokens [K, n] of the frames from `start` on, -1 where they are not decided.

        Args:
            num_done: how many frames from the first on are decided now.
        """
        self.tokens[:, start : start + tokens.shape[1]] = tokens
        self.num_done = max(self.num_done, num_done)

    def end(self, num_frames: int) -> None:
        """Ends the item here, whether these frames are decided yet or not."""
        self.tokens = self.tokens[:, :num_frames]
        self.num_done = min(self.num_done, num_frames)


class StageBatch(Protocol):
    """The runs that a stage is working on."""

    def add(self, run: Run) -> None: ...

    def remove(self, run: Run) -> None:
        """Gives up a run, done or not."""

    def waiting(self) -> bool:
        """Whether some run that is not done lacks tokens of an earlier stage."""

    def step(self) -> bool:
        """Takes one step with all runs that can; False if none could."""


class AnyStage(Protocol):
    """What the schedule needs to know of a stage, whatever kind of model it has."""

    @property
    def name(self) -> str: ...

    @property
    def frame_rate(self) -> Fraction: ...

    @property
    def num_codebooks(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """How many tokens each codebook has, without one that ends a clip."""

    @property
    def context(self) -> int:
        """How many frames it sees at once."""

    @property
    def sampling(self) -> Sampling: ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of what a user may give."""

    @property
    def source(self) -> Source | None: ...

    @property
    def repeats(self) -> bool: ...

    @property
    def may_end(self) -> bool:
        """Whether a clip may end before its duration."""

    @property
    def token_kind(self) -> Literal["semantic", "acoustic"]: ...

    @property
    def first_codebook(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def check(self, run: Run) -> None:
        """Raises ValueError for what the user gave wrongly, before any work is done."""

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch: ...


def check_temperatures(sampling: Sampling, *, stage: str, num_codebooks: int) -> None:
    """Raises ValueError unless there is one temperature, or one for each codebook."""
    temperature = sampling.temperature
    if isinstance(temperature, tuple) and len(temperature) != num_codebooks:
        raise ValueError(
            f"Got {len(temperature)} temperatures for the {stage} stage; give one, or "
            f"{num_codebooks}, one for each codebook."
        )


def leading_known(tokens: Tensor) -> int:
    """How many frames at the start of tokens [K, T] are decided."""
    unknown = (tokens < 0).any(dim=0).nonzero()
    return int(unknown[0]) if len(unknown) else tokens.shape[1]


def unknown_tokens(num_codebooks: int, num_frames: int, device: torch.device) -> Tensor:
    return torch.full((num_codebooks, num_frames), -1, dtype=torch.int64, device=device)
