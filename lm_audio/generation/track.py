"""Tracks: the conditions and the values, known so far, of one item in one stage.

Shapes: K codebooks or latent width, T frames.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.blend import Blend
from lm_audio.generation.story import Story
from lm_audio.networks.condition import Condition
from lm_audio.sampling import AnySampling
from lm_audio.signals import Signal


@dataclass(frozen=True, kw_only=True)
class Source:
    """The earlier stage whose values condition a stage, and the name of that condition."""

    stage: str
    condition: str


Embedded = dict[tuple[nn.Module, str, int | None], Condition]
"""Embedded conditions, by conditioner, name and part of the story or blend; None for dropped
ones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Variation:
    """Audio to vary, as values [D, T] of a stage.

    Args:
        strength: the share of the denoising steps that change it; 1 keeps almost nothing.
        towards: other audio, as values [D, T], to mix in; None for none.
        share: of the other audio, from 0 to 1.
    """

    values: Tensor
    strength: float
    towards: Tensor | None = None
    share: float = 0.0


@dataclass(eq=False, kw_only=True)
class Track:
    """The values of one item in one stage, some of them known from the start.

    Args:
        values: tokens [K, T], int64, -1 if unknown; or latents [D, T], float32, NaN if unknown.
        conditions: the given ones, by name.
        negative: used in place of conditions that guidance drops; the null by default.
        embedded: the embedded conditions of all tracks of an item.
        source: the track of the earlier stage whose values condition this one.
        starts: the start time of each frame in seconds, for deduplicated tokens that partly come
            from audio; without it, all frames of a track are equally long.
        open_end: whether the stage may end it before T frames.
        overlap_frames: how many frames each window keeps of the one before; the stage's number by
            default.
        variation: the values of other audio, to vary; None to start from noise alone.
        loop: whether the last frame is followed by the first.
        is_vector: whether the values describe the whole item, not its frames.
        seconds: the duration of the whole recording; by default that of the frames.
        starts_at: the second of the recording where the track starts.
        candidate: distinguishes tracks that differ only in their random numbers.
        origin: the number of frames of the whole item before those of this track.
        known: [T], the given frames.
        num_given: the number of given frames at the start.
        num_done: the number of known or generated frames at the start.
        in_work: progress of the current window, in frames.
    """

    values: Tensor
    seed: int
    sampling: AnySampling | None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    negative: Mapping[str, Any] = field(default_factory=dict)
    embedded: Embedded = field(default_factory=dict)
    source: "Track | None" = None
    starts: Sequence[float] | None = None
    open_end: bool = False
    overlap_frames: int | None = None
    variation: "Variation | None" = None
    loop: bool = False
    is_vector: bool = False
    seconds: float | None = None
    starts_at: float = 0.0
    candidate: int = 0
    origin: int = 0
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
        """Stores values [K, n] of the frames from `start` on.

        Args:
            num_done: the number of decided frames at the start of the track.
        """
        self.values[:, start : start + values.shape[1]] = values
        self.num_done = max(self.num_done, num_done)

    @property
    def story(self) -> Story | None:
        """The prompts that change with time, if any do."""
        return next((x for x in self.conditions.values() if isinstance(x, Story)), None)

    @property
    def blend(self) -> Blend | None:
        """The prompts that hold together, if there are several."""
        return next((x for x in self.conditions.values() if isinstance(x, Blend)), None)

    @property
    def num_parts(self) -> int:
        """Of the story or the blend; 1 without one."""
        several = self.story or self.blend
        return 1 if several is None else len(several.parts)

    def part_at(self, frame: int, rate: Fraction) -> tuple[int, int]:
        """The index of the story's part that a frame belongs to, and the frame that ends it."""
        if self.story is None:
            return 0, self.num_frames
        new = max(0, frame - self.num_given)
        end = self.story.next_start(new, rate)
        end = self.num_frames if end is None else self.num_given + end
        return self.story.part_at(new, rate), min(end, self.num_frames)

    def moment(self, frame: int, rate: Fraction) -> tuple[int, float]:
        """The story's part at a frame, and how far it has turned into the next: from 0 to 1."""
        if self.story is None:
            return 0, 0.0
        return self.story.moment(max(0, frame - self.num_given), rate)

    def values_of(self, *, dropped: bool, part: int = 0) -> dict[str, Any]:
        """The conditions, or what replaces them when dropped, in a part of the story or blend."""
        given = self.negative if dropped else self.conditions
        return {
            name: value.texts[part] if isinstance(value, Story | Blend) else value
            for name, value in given.items()
        }

    def window_start(self, window_frames: int, overlap_frames: int) -> int:
        """The first frame of the window that decides the next frame.

        Args:
            overlap_frames: of the stage, if the track has no number of its own.
        """
        overlap = overlap_frames if self.overlap_frames is None else self.overlap_frames
        stride = window_frames - overlap
        return max(0, -(-(self.num_done + 1 - window_frames) // stride)) * stride

    def embed(self, conditioners: Conditioners) -> None:
        """Embeds all conditions; raises ValueError if one is invalid."""
        for given, dropped in ((self.conditions, False), (self.negative, True)):
            for name in given.keys() & conditioners.fuse.keys():
                for part in range(1 if dropped else self.num_parts):
                    self.condition(conditioners, name, dropped=dropped, part=part)

    def condition(
        self, conditioners: Conditioners, name: str, *, dropped: bool, part: int = 0
    ) -> Condition:
        """The user's condition, or what replaces it when dropped, embedded once per item."""
        conditioner = conditioners[name]
        value = self.values_of(dropped=dropped, part=part).get(name)
        null = getattr(conditioner, "null", None)
        if dropped and value is None and isinstance(null, Null) and null.kind == "zeros":
            given = self.condition(conditioners, name, dropped=False, part=part)
            return replace(given, embeddings=torch.zeros_like(given.embeddings))
        key = (conditioner, name, None if dropped else part)
        if key not in self.embedded:
            self.embedded[key] = conditioner([value])
        return self.embedded[key]

    def end(self, num_frames: int) -> None:
        """Ends the item after this many frames, decided or not."""
        self.values = self.values[:, :num_frames]
        self.num_done = min(self.num_done, num_frames)


class StageBatch(Protocol):
    """The tracks that a stage is processing."""

    def add(self, track: Track) -> None: ...

    def remove(self, track: Track) -> None:
        """Removes a track, finished or not."""

    def waiting(self) -> bool:
        """Whether some unfinished track lacks values of an earlier stage."""

    def step(self) -> bool:
        """Takes one step with all tracks that are ready; False if none is."""


class Stage(Protocol):
    """The interface of a stage, for any kind of model."""

    @property
    def name(self) -> str: ...

    @property
    def makes(self) -> Signal: ...

    @property
    def window_frames(self) -> int:
        """The number of frames in its context window."""

    @property
    def sampling(self) -> AnySampling | None:
        """The default settings; None if there is nothing to set."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions that a user may give, by name."""

    @property
    def source(self) -> Source | None: ...

    @property
    def deduplicated(self) -> bool:
        """Whether no token repeats the one before, so that tokens have no fixed duration."""

    @property
    def may_end(self) -> bool:
        """Whether a clip may end before its duration."""

    @property
    def two_sided(self) -> bool:
        """Whether it uses the known frames after a span that it fills."""

    @property
    def first_codebook(self) -> int:
        """The index of its first row in the renderer's input."""

    @property
    def device(self) -> torch.device: ...

    def check(self, track: Track) -> None:
        """Raises ValueError if the user's input is invalid, before any work is done."""

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch: ...


def own_conditions(conditioners: Conditioners, source: Source | None) -> tuple[str, ...]:
    """The conditions that a user may give to a stage: all but that of its source."""
    led = None if source is None else source.condition
    return tuple(name for name in conditioners.fuse if name != led)


def aligned_tokens(conditioners: Conditioners, source: Source | None) -> AlignedTokens | None:
    """The conditioner that adds the source's tokens frame by frame, if there is one."""
    found = None if source is None else conditioners[source.condition]
    return found if isinstance(found, AlignedTokens) else None


def source_span(track: Track, frame_rate: Fraction, start: int, stop: int) -> tuple[int, int]:
    """The source's frames that precede a window of these frames as its prefix.

    If the source has start times, these are the frames that overlap the window in time. Else both
    tracks divide the same time into equal frames, and the span is proportional.
    """
    source = track.source
    assert source is not None
    if source.starts is None:
        first = start * source.num_frames // track.num_frames
        return first, -(-stop * source.num_frames // track.num_frames)
    begin, end = float(start / frame_rate), float(stop / frame_rate)
    first = max(0, bisect_right(source.starts, begin) - 1)
    return first, bisect_left(source.starts, end)


def is_known(values: Tensor) -> Tensor:
    """Whether each frame [T] of values [K, T] is known in all rows."""
    unknown = values.isnan() if values.is_floating_point() else values < 0
    return ~unknown.any(dim=0)


def leading(known: Tensor) -> int:
    """The number of known frames at the start of [T]."""
    unknown = (~known).nonzero()
    return int(unknown[0]) if len(unknown) else len(known)


def unknown_values(signal: Signal, num_frames: int, device: torch.device) -> Tensor:
    """The values [K, T] of a track without known frames."""
    size = (signal.width, num_frames)
    return torch.full(size, signal.unknown, dtype=signal.dtype, device=device)
