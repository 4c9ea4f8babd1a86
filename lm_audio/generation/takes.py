"""Takes: several clips of one request, of which a judge picks the best.

Shapes: C channels, N samples.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.request import Request
from lm_audio.generation.story import Story

MOST = 64


class Judge(Protocol):
    """Judges how well audio fits a text."""

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        """The higher, the better samples [C, N] fit the text."""


def takes_of(request: Request, count: int) -> list[Request]:
    """The request and others that differ in their seeds, which follow from its own."""
    return [request, *(replace(request, seed=_seed(request.seed, i)) for i in range(1, count))]


def best(clips: Sequence[Clip], request: Request, judge: Judge) -> Clip:
    """The clip that fits the prompt best, with all clips as its takes, best first."""
    ranked = sorted(clips, key=lambda clip: -_score(clip, request, judge))
    return replace(ranked[0], takes=tuple(ranked))


def check_takes(requests: Sequence[Request], count: int) -> None:
    """Raises ValueError if takes cannot be made or ranked."""
    if not isinstance(count, int) or not 1 <= count <= MOST:
        raise ValueError(f"best_of must be a whole number from 1 to {MOST}, got {count!r}.")
    if count > 1 and any(request.prompt is None for request in requests):
        raise ValueError("best_of ranks clips by their fit to the prompt, so it needs a prompt.")


def _score(clip: Clip, request: Request, judge: Judge) -> float:
    """The mean score of the parts of a clip, weighted by their lengths."""
    rate, N = clip.sample_rate, clip.samples.shape[1]
    story = request.prompt
    parts = story.parts if isinstance(story, Story) else ((0.0, str(story)),)
    starts = [min(N, round(at * rate)) for at, _ in parts]
    total = 0.0
    for (_, text), start, stop in zip(parts, starts, [*starts[1:], N], strict=True):
        if stop > start:
            score = judge.score(clip.samples[:, start:stop], rate, text)
            total += score * (stop - start) / N
    return total


def _seed(seed: int, take: int) -> int:
    digest = hashlib.sha256(f"{seed}/take {take}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
