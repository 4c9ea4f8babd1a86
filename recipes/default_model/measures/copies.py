"""Memorisation: do generated tokens repeat what was trained on (MusicLM, arXiv 2301.11325, 5.6)?

Exact copies are windows of tokens that also occur in a training clip. Near copies are windows whose
token counts are close to those of a training window. MusicLM weights differences of counts by the
distance between centroids; here all tokens are equally far apart, which gives the total variation.
MusicLM compares only with the clip that a prompt came from; this compares with all clips.

Shapes: T frames, W windows, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_audio.evaluation.report import Measurement, mean_of

NEAR = 0.01


def measure_copies(
    generated: Sequence[Tensor],
    training: Sequence[Tensor],
    held_out: Sequence[Tensor],
    *,
    rate: float,
    vocab_size: int,
) -> list[Measurement]:
    """The shares of copies in generated tokens [T], and in held-out real ones for comparison.

    A near copy is closer to a training window than 99 % of held-out windows are.
    """
    found = []
    for seconds in (5.0, 1.0):
        length, hop = round(rate * seconds), round(rate)
        for what, clips in (("generated", generated), ("real held-out", held_out)):
            row = mean_of(
                exact_copies(clips, training, length=length),
                metric=f"windows of {seconds:g} s of {what} clips that are in a training clip",
                implementation=f"equal runs of {length} semantic tokens in {len(training):,} clips",
                better="lower",
                note=""
                if any(len(clip) >= length for clip in clips)
                else "the clips are too short",
            )
            found.append(row)
    distances = partial(
        nearest_distances, training=training, length=length, hop=hop, vocab_size=vocab_size
    )
    new, real = distances(generated), distances(held_out)
    if not len(new) or not len(real):
        return found
    threshold = max(float(np.quantile(real, NEAR)), 1 / length)  # the least that is not equal
    near = mean_of(
        (new < threshold).astype(float).tolist(),
        metric="windows of generated clips that nearly are in a training clip",
        implementation=f"total variation of the counts of {length} semantic tokens to the nearest "
        f"training window below {threshold:.3f}, the {NEAR:.0%} quantile of held-out windows",
        better="lower",
        note=f"medians: {np.median(new):.3f} generated, {np.median(real):.3f} held-out",
    )
    return [*found, near]


def exact_copies(
    generated: Sequence[Tensor], training: Sequence[Tensor], *, length: int
) -> list[float]:
    """The share of each clip's windows that occur in a training clip; tokens [T].

    Ignores clips shorter than a window.
    """
    known = np.unique(np.concatenate([_fingerprints(clip, length) for clip in training]))
    hashes = [_fingerprints(clip, length) for clip in generated if len(clip) >= length]
    return [float(_are_among(known, each).mean()) for each in hashes]


def nearest_distances(
    generated: Sequence[Tensor],
    training: Sequence[Tensor],
    *,
    length: int,
    hop: int,
    vocab_size: int,
) -> NDArray[np.float64]:
    """The distance of each clip's windows, `hop` apart, to the nearest training window: [W].

    The total variation of token counts, which is the share of tokens to replace.
    """
    known = np.ascontiguousarray(_counts(training, length, hop, vocab_size).T)  # [V, W]
    distances = []
    for counts in _counts(generated, length, hop, vocab_size):
        used = counts.nonzero()[0]
        shared = np.minimum(known[used], counts[used, None]).sum(axis=0)
        distances.append(1 - int(shared.max(initial=0)) / length)
    return np.array(distances)


def _fingerprints(tokens: Tensor, length: int) -> NDArray[np.int64]:
    """A 64-bit hash of each window of tokens [T]: [W]."""
    if len(tokens) < length:
        return np.empty(0, dtype=np.int64)
    random = np.random.default_rng(length)
    weights = random.integers(-(2**63), 2**63 - 1, size=length, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens.long().numpy(), length)
    return windows @ weights


def _are_among(known: NDArray[np.int64], hashes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each hash is in `known`, which is sorted."""
    if not len(known):
        return np.zeros(len(hashes), dtype=bool)
    found: NDArray[np.bool_] = known.take(known.searchsorted(hashes), mode="clip") == hashes
    return found


def _counts(clips: Sequence[Tensor], length: int, hop: int, vocab_size: int) -> NDArray[np.int16]:
    """How often each token occurs in each window: [W, V]."""
    rows = [
        torch.bincount(window.long(), minlength=vocab_size).to(torch.int16)
        for clip in clips
        if len(clip) >= length
        for window in clip.unfold(0, length, hop)
    ]
    return np.stack([row.numpy() for row in rows]) if rows else np.empty((0, vocab_size), np.int16)
