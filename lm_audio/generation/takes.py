"""Takes: several clips of one request, of which a judge picks the best.

Shapes: C channels, N samples.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.blend import Blend
from lm_audio.generation.request import Request
from lm_audio.generation.story import Story

MOST = 64


class Judge(Protocol):
    """Judges how well audio fits a text."""

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        """The higher, the better samples [C, N] fit the text."""


def takes_of(requests: Sequence[Request], count: int) -> list[Request]:
    """Each request, followed by others whose seeds follow from its own.

    Raises ValueError if takes cannot be made or ranked.
    """
    if not isinstance(count, int) or not 1 <= count <= MOST:
        raise ValueError(f"best_of must be a whole number from 1 to {MOST}, got {count!r}.")
    if count > 1 and any(request.prompt is None for request in requests):
        raise ValueError("best_of ranks clips by their fit to the prompt, so it needs a prompt.")
    stories = [one.prompt for one in requests if isinstance(one.prompt, Story)]
    if count > 1 and any(all(turn.seed is not None for turn in x.turns) for x in stories):
        raise ValueError(
            "best_of needs takes of different seeds, but each part of the story has its own. "
            "Remove a seed, or best_of."
        )
    return [
        request if i == 0 else replace(request, seed=_seed(request.seed, i))
        for request in requests
        for i in range(count)
    ]


def best_of(clips: Sequence[Clip], requests: Sequence[Request], judge: Judge) -> list[Clip]:
    """The take that fits each request's prompt best, with all of its takes, best first."""
    count = len(clips) // len(requests)
    found = []
    for i, request in enumerate(requests):
        takes = clips[i * count : (i + 1) * count]
        scores = {take: score_of(take, request, judge) for take in takes}
        ranked = sorted(takes, key=scores.__getitem__, reverse=True)
        found.append(replace(ranked[0], takes=tuple(ranked)))
    return found


def score_of(clip: Clip, request: Request, judge: Judge) -> float:
    """How well a clip fits its prompt: the mean over the parts of a story by their lengths, or over
    the prompts of a blend by their shares."""
    rate, N = clip.sample_rate, clip.samples.shape[1]
    story = request.prompt
    if isinstance(story, Blend):
        parts_of = story.parts.items()
        return sum(share * judge.score(clip.samples, rate, text) for text, share in parts_of)
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
