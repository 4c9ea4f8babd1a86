"""Codebook patterns: how K codebooks are laid out along the sequence of a language model.

A pattern is a value; its layout for T frames maps tokens to the sequence and back. A layout
has no start step: the caller prepends it. Delayed and unrolled: arXiv 2306.05284;
coarse codebook first: arXiv 2301.02111; flattened with an offset per codebook: arXiv 2209.03143.

Shapes: B batch, C channels, K codebooks, T frames, J streams of the model, S steps, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["delayed", "unrolled", "coarse_first", "flattened"]

_SETTINGS: dict[str, set[str]] = {
    "delayed": {"delays"},
    "unrolled": {"flattening", "delays"},
    "coarse_first": {"group_size", "delays"},
    "flattened": {"group_size", "codebook_size"},
}


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The order of tokens. Build one with the functions below, or from the fields of another.

    Args:
        delays: delay of each codebook in frames; for "coarse_first", of all after the first group.
        flattening: the position of each codebook within a frame ("unrolled").
        group_size: codebooks that come first ("coarse_first") or together ("flattened").
        codebook_size: tokens per codebook if all share one stream ("flattened"); else None.
    """

    kind: Kind
    num_codebooks: int
    delays: tuple[int, ...] = ()
    flattening: tuple[int, ...] = ()
    group_size: int | None = None
    codebook_size: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "delays", tuple(self.delays))
        object.__setattr__(self, "flattening", tuple(self.flattening))
        _check(self)

    @property
    def num_streams(self) -> int:
        """J: the tokens per step."""
        return self.num_codebooks if self.codebook_size is None else 1

    def layout(self, num_frames: int) -> "Layout":
        """The layout for this many frames, cached."""
        if num_frames < 1:
            raise ValueError(f"Expected at least 1 frame, got {num_frames}. Use a longer duration.")
        return _layout(self, num_frames)


def parallel(num_codebooks: int) -> Pattern:
    """All codebooks of a frame in one step."""
    return delayed([0] * num_codebooks)


def delayed(delays: Sequence[int]) -> Pattern:
    """Frame t of codebook k in step t + delays[k]."""
    return Pattern(kind="delayed", num_codebooks=len(delays), delays=tuple(delays))


def unrolled(flattening: Sequence[int], delays: Sequence[int] | None = None) -> Pattern:
    """Several steps per frame: codebook k is at step flattening[k] of its frame.

    [0, 1, 2, ...] puts one codebook in each step. A codebook with delays[k] starts that many frames
    later; of two frames in the same step, the older one comes first.
    """
    return Pattern(
        kind="unrolled",
        num_codebooks=len(flattening),
        flattening=tuple(flattening),
        delays=(0,) * len(flattening) if delays is None else tuple(delays),
    )


def coarse_first(num_codebooks: int, delays: Sequence[int] | None = None) -> Pattern:
    """All frames of codebook 0, then the others, codebook k delayed by delays[k - 1]."""
    return Pattern(
        kind="coarse_first",
        num_codebooks=num_codebooks,
        group_size=1,
        delays=(0,) * (num_codebooks - 1) if delays is None else tuple(delays),
    )


def flattened(
    num_codebooks: int, *, codebook_size: int | None, group_size: int | None = None
) -> Pattern:
    """One token per step: frame by frame within a group of codebooks, group after group.

    Args:
        codebook_size: all codebooks share one stream, and a token of codebook k is stored as
            token + k * codebook_size; with None each codebook has its own stream.
        group_size: codebooks per group (the last may be smaller); None puts all in one group.
    """
    return Pattern(
        kind="flattened",
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
        group_size=num_codebooks if group_size is None else group_size,
    )


def stereo(pattern: Pattern) -> Pattern:
    """K codebooks to 2K, L0 R0 L1 R1 ...: both in one step, or in turn in a flattened pattern."""
    return replace(
        pattern,
        num_codebooks=2 * pattern.num_codebooks,
        delays=tuple(delay for delay in pattern.delays for _ in range(2)),
        flattening=tuple(turn for turn in pattern.flattening for _ in range(2)),
        group_size=None if pattern.group_size is None else 2 * pattern.group_size,
    )


def interleave_channels(tokens: Tensor) -> Tensor:
    """Interleaves the codebooks of channels, L0 R0 L1 R1 ...: [B, C, K, T] to [B, K * C, T]."""
    if tokens.ndim != 4:
        raise ValueError(f"Expected tokens of shape [B, C, K, T], got {list(tokens.shape)}.")
    return tokens.transpose(1, 2).flatten(1, 2)


def split_channels(tokens: Tensor, num_channels: int) -> Tensor:
    """The inverse of `interleave_channels`: tokens [B, K * C, T] to [B, C, K, T]."""
    if tokens.ndim != 3 or num_channels < 1 or tokens.shape[1] % num_channels:
        raise ValueError(
            f"Expected tokens of shape [B, K * C, T] for {num_channels} channels, got "
            f"{list(tokens.shape)}."
        )
    return tokens.unflatten(1, (-1, num_channels)).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Layout:
    """The mapping between cells of a sequence [J, S] and tokens [K, T].

    Args:
        codebook, frame: [J, S], int64: the codebook and frame of a cell; -1 if it is empty.
        offset: [J, S], int64: added to the token in a cell.
        stream, step: [K, T], int64: the cell of a token.
        complete: the result of `complete_frames` for 0 .. S steps.
    """

    codebook: Tensor
    frame: Tensor
    offset: Tensor
    stream: Tensor
    step: Tensor
    codebook_size: int | None
    complete: list[int] = field(repr=False)
    _copies: dict[torch.device, "Layout"] = field(default_factory=dict, init=False, repr=False)

    @property
    def num_codebooks(self) -> int:
        return self.step.shape[0]

    @property
    def num_frames(self) -> int:
        return self.step.shape[1]

    @property
    def num_streams(self) -> int:
        return self.codebook.shape[0]

    @property
    def num_steps(self) -> int:
        return self.codebook.shape[1]

    def build(self, tokens: Tensor, *, empty: int) -> Tensor:
        """Tokens [B, K, T] to a sequence [B, J, S] with `empty` in empty cells.

        -1 marks an unknown token and is kept.
        """
        _check_shape("tokens", tokens, ("B", self.num_codebooks, self.num_frames))
        here = self.to(tokens.device)
        sequence = tokens[:, here.codebook, here.frame]  # [B, J, S]
        if self.codebook_size is not None:
            sequence = torch.where(sequence < 0, sequence, sequence + here.offset)
        return sequence.masked_fill(here.codebook < 0, empty)

    def revert(self, sequence: Tensor) -> Tensor:
        """The inverse of `build`: a sequence [B, J, S] to tokens [B, K, T]; -1 is kept."""
        _check_shape("a sequence", sequence, ("B", self.num_streams, self.num_steps))
        here = self.to(sequence.device)
        tokens = sequence[:, here.stream, here.step]  # [B, K, T]
        if self.codebook_size is None:
            return tokens
        offset = torch.arange(self.num_codebooks, device=tokens.device) * self.codebook_size
        return torch.where(tokens < 0, tokens, tokens - offset[:, None])

    def latest_frames(self) -> Tensor:
        """The latest frame in each step, or before it if the step is empty: [S]."""
        latest = self.frame.amax(dim=0)
        filled = torch.where(latest < 0, 0, torch.arange(len(latest), device=latest.device))
        return latest[filled.cummax(dim=0).values].clamp(min=0)

    def complete_frames(self, num_steps: int) -> int:
        """The number of leading frames that the first `num_steps` steps contain in full."""
        if not 0 <= num_steps <= self.num_steps:
            raise ValueError(
                f"num_steps must be between 0 and {self.num_steps}, the length of this layout, "
                f"got {num_steps}."
            )
        return self.complete[num_steps]

    def to(self, device: torch.device) -> "Layout":
        """This layout with its tensors on a device, cached."""
        if device == self.codebook.device:
            return self
        if device not in self._copies:
            # Indices made in inference mode would fail in a later backward pass.
            with torch.inference_mode(False):
                self._copies[device] = replace(
                    self,
                    codebook=self.codebook.to(device),
                    frame=self.frame.to(device),
                    offset=self.offset.to(device),
                    stream=self.stream.to(device),
                    step=self.step.to(device),
                )
        return self._copies[device]


@lru_cache(maxsize=32)
def _layout(pattern: Pattern, num_frames: int) -> Layout:
    with torch.inference_mode(False), torch.device("cpu"):
        step = _steps(pattern, torch.arange(num_frames))  # [K, T]
        codebooks = torch.arange(pattern.num_codebooks)[:, None].expand_as(step)
        stream = codebooks if pattern.codebook_size is None else torch.zeros_like(codebooks)
        num_steps = int(step.max()) + 1
        codebook = torch.full((pattern.num_streams, num_steps), -1)
        frame = codebook.clone()
        codebook[stream, step] = codebooks
        frame[stream, step] = torch.arange(num_frames)
        last = (
            step.amax(0).cummax(0).values
        )  # [T]: the step that completes each frame and all before
        return Layout(
            codebook=codebook,
            frame=frame,
            offset=codebook.clamp(min=0) * (pattern.codebook_size or 0),
            stream=stream,
            step=step,
            codebook_size=pattern.codebook_size,
            complete=torch.searchsorted(last, torch.arange(num_steps + 1)).tolist(),
        )


def _steps(pattern: Pattern, frames: Tensor) -> Tensor:
    """The step [K, T] of each token, for frames 0 .. T - 1 [T]."""
    K, T = pattern.num_codebooks, len(frames)
    codebooks = torch.arange(K)[:, None]
    if pattern.kind == "delayed":
        return frames + torch.tensor(pattern.delays)[:, None]
    if pattern.kind == "unrolled":
        return _unrolled_steps(pattern, frames)
    group_size = pattern.group_size or K
    if pattern.kind == "coarse_first":
        starts = (0,) * group_size + tuple(T + delay for delay in pattern.delays)
        return frames + torch.tensor(starts)[:, None]
    first = codebooks - codebooks % group_size  # [K, 1]: the first codebook of the group
    return first * T + frames * (K - first).clamp(max=group_size) + codebooks - first


def _unrolled_steps(pattern: Pattern, frames: Tensor) -> Tensor:
    """In each round, every group whose delay is over gets one step, the most delayed first."""
    turn = torch.tensor(pattern.flattening)[:, None]
    delay = torch.tensor(pattern.delays)[:, None]
    rounds = frames + delay  # [K, T]
    steps = torch.zeros_like(rounds)
    for other_turn, other_delay in set(zip(pattern.flattening, pattern.delays, strict=True)):
        steps += (rounds - other_delay).clamp(min=0)  # its turns in earlier rounds
        goes_before = (delay < other_delay) | ((delay == other_delay) & (turn > other_turn))
        steps += goes_before & (rounds >= other_delay)
    return steps


def _check(pattern: Pattern) -> None:
    K, kind, delays = pattern.num_codebooks, pattern.kind, pattern.delays
    if kind not in _SETTINGS:
        raise ValueError(f"Unknown pattern '{kind}'. Choose one of: {', '.join(get_args(Kind))}.")
    if K < 1:
        raise ValueError(f"A pattern needs at least 1 codebook, got {K}.")
    for name in ("delays", "flattening", "group_size", "codebook_size"):
        if name not in _SETTINGS[kind] and getattr(pattern, name) not in ((), None):
            raise ValueError(f"A '{kind}' pattern has no {name}. Remove it.")
    if "group_size" in _SETTINGS[kind] and not 1 <= (pattern.group_size or 0) <= K:
        raise ValueError(
            f"group_size must be between 1 and {K}, the number of codebooks, got "
            f"{pattern.group_size}."
        )
    if pattern.codebook_size is not None and pattern.codebook_size < 1:
        raise ValueError(f"codebook_size must be at least 1, or None, got {pattern.codebook_size}.")
    num_delays = K - (pattern.group_size or 0) if "delays" in _SETTINGS[kind] else 0
    if len(delays) != num_delays or min(delays, default=0) < 0:
        raise ValueError(
            f"Expected {num_delays} non-negative delays, one per delayed codebook, got "
            f"{list(delays)}."
        )
    if kind == "unrolled":
        _check_flattening(pattern)


def _check_flattening(pattern: Pattern) -> None:
    turns = pattern.flattening
    if len(turns) != pattern.num_codebooks or set(turns) != set(range(len(set(turns)))):
        raise ValueError(
            f"Expected a flattening of {pattern.num_codebooks} values that cover 0, 1, 2, ... "
            f"without gaps, got {list(turns)}."
        )
    if len(set(zip(turns, pattern.delays, strict=True))) != len(set(turns)):
        raise ValueError(
            f"Codebooks in the same step need the same delay, got delays {list(pattern.delays)} "
            f"for the flattening {list(turns)}."
        )


def _check_shape(what: str, tensor: Tensor, expected: tuple[str | int, ...]) -> None:
    if tensor.ndim != len(expected) or any(
        isinstance(size, int) and size != got
        for size, got in zip(expected, tensor.shape, strict=True)
    ):
        shape = ", ".join(map(str, expected))
        raise ValueError(
            f"Expected {what} of shape [{shape}] for this layout, got {list(tensor.shape)}."
        )
