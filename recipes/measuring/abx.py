"""ABX: is a sound closer to one of its own category than to one of another?

The error rate of the Zero Resource Speech Challenges (Schatz et al., 2013), by the definitions of
Libri-Light's `eval_ABX` (arXiv 1912.07875): triplets of phones in the same context, of one speaker
or with X of another. AudioLM measures its tokens by it (arXiv 2209.03143, table I).

Shapes: T frames, D width, P pairs.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.evaluation.metrics.words import edit_distance

Mode = Literal["within", "across"]
Distance = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A phone in a file, from `onset` to `offset` seconds, with its context and speaker."""

    file: str
    onset: float
    offset: float
    category: str
    context: str
    speaker: str

    def frames(self, sequence: Tensor, *, frame_rate: float) -> Tensor:
        """The frames [T, ...] of a file whose centres lie between onset and offset."""
        first = max(0, math.ceil(frame_rate * self.onset - 0.5))
        return sequence[first : math.floor(frame_rate * self.offset - 0.5)]


def read_items(path: Path) -> list[Item]:
    """Reads an .item file: file, onset, offset, phone, previous phone, next phone, speaker."""
    items = []
    for number, line in enumerate(path.read_text().splitlines()[1:], start=2):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 7:
            raise ValueError(
                f"Line {number} of {path} has {len(fields)} fields; expected 7: file, onset, "
                "offset, phone, previous phone, next phone, speaker."
            )
        file, onset, offset, category, before, after, speaker = fields
        items.append(
            Item(
                file=file,
                onset=float(onset),
                offset=float(offset),
                category=category,
                context=f"{before}+{after}",
                speaker=speaker,
            )
        )
    return items


def angular_distance(first: Tensor, second: Tensor) -> float:
    """Features [T, D] and [T', D]: the mean angle, in half turns, along the best alignment."""
    a, b = (F.normalize(x.double(), dim=-1) for x in (first, second))
    return aligned_distance(((a @ b.T).clamp(-1, 1).acos() / math.pi).numpy())


def token_distance(first: Tensor, second: Tensor) -> float:
    """Tokens [T] and [T']: the share of unequal ones along the best alignment."""
    return aligned_distance((first[:, None] != second[None]).double().numpy())


def token_edits(first: Tensor, second: Tensor) -> float:
    """Tokens [T] and [T']: their edit distance, repeats removed, over the longer length."""
    a, b = (torch.unique_consecutive(x).tolist() for x in (first, second))
    return edit_distance(a, b) / max(len(a), len(b))


def aligned_distance(costs: np.ndarray) -> float:
    """The mean of costs [T, T'] along the path with the lowest sum (dynamic time warping).

    Ties go to the diagonal step, then to the step along T', as in Libri-Light.
    """
    rows, columns = costs.shape
    sums, lengths = np.empty_like(costs), np.ones((rows, columns), dtype=np.int64)
    sums[0], lengths[0] = costs[0].cumsum(), np.arange(1, columns + 1)
    sums[:, 0], lengths[:, 0] = costs[:, 0].cumsum(), np.arange(1, rows + 1)
    # Cells of an anti-diagonal depend on those before it alone.
    for diagonal in range(2, rows + columns - 1):
        i = np.arange(max(1, diagonal - columns + 1), min(rows, diagonal))
        j = diagonal - i
        ways = np.stack([sums[i - 1, j - 1], sums[i, j - 1], sums[i - 1, j]])
        steps = np.stack([lengths[i - 1, j - 1], lengths[i, j - 1], lengths[i - 1, j]])
        best = ways.argmin(axis=0)  # the first of equal ones
        take = np.arange(len(i))
        sums[i, j] = costs[i, j] + ways[best, take]
        lengths[i, j] = steps[best, take] + 1
    return float(sums[-1, -1] / lengths[-1, -1])


def abx_error(
    items: Sequence[Item],
    frames: Sequence[Tensor],
    distance: Distance,
    *,
    mode: Mode = "within",
    most_of_a_kind: int = 10,
    most_speakers: int = 5,
    seed: int = 0,
) -> float | None:
    """How often X, of A's category, is closer to B; ties count half. None without triplets.

    The mean over contexts (and speakers of X), then over speakers, then over pairs of categories.

    Args:
        frames: frames of each item, [T, D] or [T]; items without frames are ignored.
        most_of_a_kind: maximum number of items per category, context and speaker; more are sampled.
        most_speakers: maximum number of speakers of X for each A, across speakers.
    """
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for number, (item, sequence) in enumerate(zip(items, frames, strict=True)):
        if len(sequence):
            groups[item.context, item.speaker, item.category].append(number)
    random = np.random.default_rng(seed)
    for key, members in groups.items():
        if len(members) > most_of_a_kind:
            groups[key] = sorted(random.choice(members, most_of_a_kind, replace=False).tolist())
    known: dict[tuple[int, int], float] = {}

    def between(first: int, second: int) -> float:
        key = (first, second)
        if key not in known:
            known[key] = distance(frames[first], frames[second])
        return known[key]

    errors: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for speaker, kinds, a, b, x in _triplets(groups, mode, most_speakers, random):
        wrong = [
            0.5 * (1 + np.sign(between(k, i) - between(k, j)))
            for k in x
            for i in a
            if k != i
            for j in b
        ]
        if wrong:
            errors[kinds][speaker].append(float(np.mean(wrong)))
    if not errors:
        return None
    by_speaker = [[np.mean(x) for x in speakers.values()] for speakers in errors.values()]
    return float(np.mean([np.mean(x) for x in by_speaker]))


def _triplets(
    groups: Mapping[tuple[str, str, str], list[int]],
    mode: Mode,
    most_speakers: int,
    random: np.random.Generator,
) -> Iterator[tuple[str, tuple[str, str], list[int], list[int], list[int]]]:
    """Yields a speaker, the categories of A and B, and candidate items for A, B and X."""
    kinds_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    speakers_of: dict[tuple[str, str], list[str]] = defaultdict(list)
    for context, speaker, kind in groups:
        kinds_of[context, speaker].append(kind)
        speakers_of[context, kind].append(speaker)
    for (context, speaker), kinds in kinds_of.items():
        for kind in kinds if len(kinds) > 1 else []:
            a = groups[context, speaker, kind]
            xs = [a]
            if mode == "across":
                others = [name for name in speakers_of[context, kind] if name != speaker]
                if len(others) > most_speakers:
                    others = random.choice(others, most_speakers, replace=False).tolist()
                xs = [groups[context, other, kind] for other in others]
            for x in xs:
                for other_kind in kinds:
                    if other_kind != kind:
                        b = groups[context, speaker, other_kind]
                        yield speaker, (kind, other_kind), a, b, x
