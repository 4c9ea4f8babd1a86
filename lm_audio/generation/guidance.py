"""Classifier-free guidance: which prompts each row of a batch keeps, and how much it counts.

With one scale s the logits are those without the prompts plus s times what the prompts add. With a
scale per condition they are added one after the other, each to those before it (double guidance):

    without all + s1 (with the first - without all) + s2 (with both - with the first) + ...

which is a weighted sum of rows. A row of weight 0 is left out: scale 1 needs no second row, and
neither does a request without prompts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from lm_audio.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One row: the names of the conditions dropped in it, and its weight at each step."""

    dropped: frozenset[str]
    weights: tuple[float, ...]


def branches(sampling: Sampling, given: Collection[str], seconds: Sequence[float]) -> list[Branch]:
    """The rows that these conditions need.

    Args:
        given: the conditions that have a value and may be dropped, in order.
        seconds: the time at which each step stands, for the schedule.
    """
    scale = sampling.guidance_scale
    if isinstance(scale, Mapping):
        groups = [([name], value) for name, value in scale.items() if name in given]
    else:
        groups = [(list(given), scale)] if given else []
    found = []
    for i in range(len(groups) + 1):
        dropped = frozenset(name for names, _ in groups[i:] for name in names)
        weights = []
        for t in seconds:
            before = sampling.scale_at(groups[i - 1][1], t) if i else 1.0
            after = sampling.scale_at(groups[i][1], t) if i < len(groups) else 0.0
            weights.append(before - after)
        if any(weights) or not seconds:
            found.append(Branch(dropped=dropped, weights=tuple(weights)))
    return found
