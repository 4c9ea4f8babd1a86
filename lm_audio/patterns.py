"""Patterns: where each token of K codebooks stands along the sequence that a model reads.

A pattern is a value; its layout for T frames moves tokens there and back, and logits back. A layout
has no start step: whoever feeds a model puts it in front. Delayed and unrolled: arXiv 2306.05284;
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
    """The order of tokens; make one with the functions below, or from the fields of another.

    Args:
        delays: frames by which a codebook lags; for "coarse_first" of those after the first group.
        flattening: the turn of each codebook within a frame ("unrolled").
        group_size: codebooks that go first ("coarse_first") or together ("flattened").
        codebook_size: tokens per codebook where all share one stream ("flattened"); else None.
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
        """J: the tokens that the model reads and writes in one step."""
        return self.num_codebooks if self.codebook_size is None else 1

    def layout(self, num_frames: int) -> "Layout":
        """The layout of so many frames; it is made once and shared."""
        if num_frames < 1:
            raise ValueError(f"Got {num_frames} frames; expected 1 or more, ask for a longer clip.")
        return _layout(self, num_frames)


def parallel(num_codebooks: int) -> Pattern:
    """All codebooks of a frame in one step."""
    return delayed([0] * num_codebooks)


def delayed(delays: Sequence[int]) -> Pattern:
    """Frame t of codebook k in step t + delays[k]."""
    return Pattern(kind="delayed", num_codebooks=len(delays), delays=tuple(delays))


def unrolled(flattening: Sequence[int], delays: Sequence[int] | None = None) -> Pattern:
    """Several steps per frame: codebook k goes at turn flattening[k], [0, 1, 2, ...] one by one.

    A codebook that lags joins in delays[k] frames later; then the older frame goes first.
    """
    return Pattern(
        kind="unrolled",
        num_codebooks=len(flattening),
        flattening=tuple(flattening),
        delays=(0,) * len(flattening) if delays is None else tuple(delays),
    )


def coarse_first(num_codebooks: int, delays: Sequence[int] | None = None) -> Pattern:
    """All frames of codebook 0, then those of the others, codebook k delayed by delays[k - 1]."""
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
            token + k * codebook_size; with None each keeps its own stream.
        group_size: codebooks in a group (the last may be smaller); None for all in one.
    """
    return Pattern(
        kind="flattened",
        num_codebooks=num_codebooks,
        codebook_size=codebook_size,
        group_size=num_codebooks if group_size is None else group_size,
    )


def stereo(pattern: Pattern) -> Pattern:
    """K codebooks to 2K, L0 R0 L1 R1 ...: both in one step, or in turn where all is flattened."""
    return replace(
        pattern,
        num_codebooks=2 * pattern.num_codebooks,
        delays=tuple(delay for delay in pattern.delays for _ in range(2)),
        flattening=tuple(turn for turn in pattern.flattening for _ in range(2)),
        group_size=None if pattern.group_size is None else 2 * pattern.group_size,
    )


def interleave_channels(tokens: Tensor) -> Tensor:
    """Tokens [B, C, K, T] of each channel to those of one model [B, K * C, T]: L0 R0 L1 R1 ..."""
    if tokens.ndim != 4:
        raise ValueError(
            f"Got tokens of shape {list(tokens.shape)}; expected [B, C, K, T], add missing axes."
        )
    return tokens.transpose(1, 2).flatten(1, 2)


def split_channels(tokens: Tensor, num_channels: int) -> Tensor:
    """The inverse of `interleave_channels`: tokens [B, K * C, T] to [B, C, K, T]."""
    if tokens.ndim != 3 or num_channels < 1 or tokens.shape[1] % num_channels:
        raise ValueError(
            f"Got tokens of shape {list(tokens.shape)} for {num_channels} channels; expected "
            "[B, K * C, T], check the number of channels."
        )
    return tokens.unflatten(1, (-1, num_channels)).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Layout:
    """What stands where: the cells of a sequence [J, S], and the place of each token [K, T].

    Args:
        codebook, frame: [J, S], int64: whose token stands in a cell; -1 where it is empty.
        offset: [J, S], int64: what is added to the token there.
        stream, step: [K, T], int64: where a token stands.
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

        -1 means "not known yet" and stays -1.
        """
        _check_shape("tokens", tokens, ("B", self.num_codebooks, self.num_frames))
        here = self.to(tokens.device)
        sequence = tokens[:, here.codebook, here.frame]  # [B, J, S]
        if self.codebook_size is not None:
            sequence = torch.where(sequence < 0, sequence, sequence + here.offset)
        return sequence.masked_fill(here.codebook < 0, empty)

    def revert(self, sequence: Tensor) -> Tensor:
        """The inverse of `build`: a sequence [B, J, S] to tokens [B, K, T]; -1 stays -1."""
        _check_shape("a sequence", sequence, ("B", self.num_streams, self.num_steps))
        here = self.to(sequence.device)
        tokens = sequence[:, here.stream, here.step]  # [B, K, T]
        if self.codebook_size is None:
            return tokens
        offset = torch.arange(self.num_codebooks, device=tokens.device) * self.codebook_size
        return torch.where(tokens < 0, tokens, tokens - offset[:, None])

    def latest_frames(self) -> Tensor:
        """The latest frame that stands in each step, or before it if the step is empty: [S]."""
        latest = self.frame.amax(dim=0)
        filled = torch.where(latest < 0, 0, torch.arange(len(latest), device=latest.device))
        return latest[filled.cummax(dim=0).values].clamp(min=0)

    def complete_frames(self, num_steps: int) -> int:
        """How many leading frames lie wholly within the first `num_steps` steps."""
        if not 0 <= num_steps <= self.num_steps:
            raise ValueError(
                f"Got {num_steps} steps; expected 0 to {self.num_steps}, the length of this layout."
            )
        return self.complete[num_steps]

    def to(self, device: torch.device) -> "Layout":
        """This layout with its tensors on a device; they are moved once."""
        if device == self.codebook.device:
            return self
        if device not in self._copies:
            # Made in inference mode, the indices could not serve a backward pass later.
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
    """A round lets each group of codebooks whose delay is over go once, the most delayed first."""
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
        raise ValueError(f"Got a pattern of {K} codebooks; expected 1 or more, name its codebooks.")
    for name in ("delays", "flattening", "group_size", "codebook_size"):
        if name not in _SETTINGS[kind] and getattr(pattern, name) not in ((), None):
            raise ValueError(f"A '{kind}' pattern has no {name}; expected none, leave it out.")
    if "group_size" in _SETTINGS[kind] and not 1 <= (pattern.group_size or 0) <= K:
        raise ValueError(
            f"Got a group size of {pattern.group_size}; expected 1 to {K}, the number of codebooks."
        )
    if pattern.codebook_size is not None and pattern.codebook_size < 1:
        raise ValueError(
            f"Got a codebook size of {pattern.codebook_size}; expected 1 or more, or None."
        )
    num_delays = K - (pattern.group_size or 0) if "delays" in _SETTINGS[kind] else 0
    if len(delays) != num_delays or min(delays, default=0) < 0:
        raise ValueError(
            f"Got delays {list(delays)}; expected {num_delays} of 0 or more, one per codebook that "
            "can lag."
        )
    if kind == "unrolled":
        _check_flattening(pattern)


def _check_flattening(pattern: Pattern) -> None:
    turns = pattern.flattening
    if len(turns) != pattern.num_codebooks or set(turns) != set(range(len(set(turns)))):
        raise ValueError(
            f"Got the flattening {list(turns)}; expected {pattern.num_codebooks} turns that leave "
            "out none of 0, 1, 2, ..."
        )
    if len(set(zip(turns, pattern.delays, strict=True))) != len(set(turns)):
        raise ValueError(
            f"Got delays {list(pattern.delays)} for the flattening {list(turns)}; expected equal "
            "delays where turns are equal."
        )


def _check_shape(what: str, tensor: Tensor, expected: tuple[str | int, ...]) -> None:
    if tensor.ndim != len(expected) or any(
        isinstance(size, int) and size != got
        for size, got in zip(expected, tensor.shape, strict=True)
    ):
        shape = ", ".join(map(str, expected))
        raise ValueError(
            f"Got {what} of shape {list(tensor.shape)}; expected [{shape}], take the layout of "
            "these frames."
        )
