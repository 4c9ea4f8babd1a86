"""Operations on frames: pooling to a lower rate, runs of equal tokens, and windows.

Shapes: B batch, T frames, S runs of equal tokens, D width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def pool_frames(features: Tensor, factor: int) -> Tensor:
    """Means over groups of `factor` frames: [B, T, D] to [B, ceil(T / factor), D].

    The last group averages the frames that exist.
    """
    if factor < 1:
        raise ValueError(f"Got a pooling factor of {factor}; expected 1 or more.")
    if features.ndim != 3:
        raise ValueError(
            f"Got features of shape {list(features.shape)}; expected [B, T, D]. Add missing axes."
        )
    if factor == 1:
        return features
    T = features.shape[1]
    padded = F.pad(features, (0, 0, 0, -T % factor))
    sums = padded.unflatten(1, (-1, factor)).sum(2)  # [B, ceil(T / factor), D]
    sizes = torch.full((sums.shape[1], 1), float(factor), device=features.device)
    sizes[-1:] -= -T % factor
    return sums / sizes.to(features.dtype)


def deduplicate(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [T] as runs: the token of each run [S], and its duration in frames [S], int64."""
    if tokens.ndim != 1:
        raise ValueError(
            f"Got tokens of shape {list(tokens.shape)}; expected [T]. Pass one row at a time, or "
            "call deduplicate_batch."
        )
    unique, durations = torch.unique_consecutive(tokens, return_counts=True)
    return unique, durations


def deduplicate_batch(tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`deduplicate` for each row of tokens [B, T]; the results differ in length."""
    if tokens.ndim != 2:
        raise ValueError(
            f"Got tokens of shape {list(tokens.shape)}; expected [B, T]. Squeeze the codebook axis."
        )
    return [deduplicate(row) for row in tokens]


def expand_durations(unique: Tensor, durations: Tensor) -> Tensor:
    """The inverse of `deduplicate`: tokens [S] and durations [S] to tokens [T]."""
    if unique.ndim != 1 or unique.shape != durations.shape:
        raise ValueError(
            f"Got tokens of shape {list(unique.shape)} and durations of shape "
            f"{list(durations.shape)}; expected [S] for both."
        )
    if durations.numel() and int(durations.min()) < 0:
        raise ValueError(f"Got a duration of {int(durations.min())}; expected 0 or more frames.")
    return torch.repeat_interleave(unique, durations)


def windows(num_frames: int, *, size: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """Yields windows of `size` frames: the input frames of each, and those of its outputs to keep.

    The kept outputs cover every frame once, in order. Windows include `margin` more frames on each
    side; the first and the last are shifted inwards.
    """
    if num_frames <= size:
        yield slice(0, num_frames), slice(0, num_frames)
        return
    step = size - 2 * margin
    for start in range(0, num_frames, step):
        first = min(max(0, start - margin), num_frames - size)
        stop = min(start + step, num_frames)
        yield slice(first, first + size), slice(start - first, stop - first)
