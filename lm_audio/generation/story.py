"""Stories: prompts that change with time."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Story:
    """Prompts and the seconds of new audio from which each holds; the first at 0.

    Example:
        Story([(0.0, "calm piano"), (15.0, "a storm breaks")])
    """

    parts: Sequence[tuple[float, str]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple((float(at), text) for at, text in self.parts))
        starts = [at for at, _ in self.parts]
        if not all(math.isfinite(at) for at in starts):
            raise ValueError(f"The times of a story must be finite, got {starts}.")
        if starts[:1] != [0] or any(after <= before for before, after in pairwise(starts)):
            raise ValueError(f"The times of a story must start at 0 and increase, got {starts}.")
        for _, text in self.parts:
            if not isinstance(text, str):
                raise ValueError(f"The prompts of a story must be strings, got {text!r}.")

    def __str__(self) -> str:
        """As in `parse`."""
        return "; ".join(f"{at:g}: {text}" for at, text in self.parts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(text for _, text in self.parts)

    def part_at(self, frame: int, rate: Fraction) -> int:
        """The index of the part that a frame of new audio belongs to."""
        starts = [round(Fraction(at) * rate) for at, _ in self.parts]
        return max(0, bisect_right(starts, frame) - 1)

    def next_start(self, frame: int, rate: Fraction) -> int | None:
        """The first frame of the part after that of a frame; None in the last part."""
        starts = [round(Fraction(at) * rate) for at, _ in self.parts]
        return next((start for start in starts if start > frame), None)


def as_story(value: Any) -> Story:
    """A story as it is, or from such a list."""
    return value if isinstance(value, Story) else Story(value)


def parse(text: str) -> Story:
    """A story such as "0: calm piano; 15: a storm breaks". Prompts cannot contain semicolons."""
    form = 'A story is written as "0: calm piano; 15: a storm breaks" (seconds'
    return Story(numbered(text, form=form))


def numbered(text: str, *, form: str) -> list[tuple[float, str]]:
    """Prompts with numbers, such as "0: calm piano; 15: a storm breaks".

    Args:
        form: the beginning of the sentence about a mistake.
    """
    parts = []
    for part in filter(str.strip, text.split(";")):
        first, colon, prompt = part.partition(":")
        try:
            number = float(first)
        except ValueError:
            colon = ""
            number = 0.0
        if not colon or not prompt.strip():
            raise ValueError(f"{form}, a colon and the prompt), got {part.strip()!r}.")
        parts.append((number, prompt.strip()))
    return parts


def is_story(value: Any) -> bool:
    """Whether a value is a story, or lists pairs of seconds and a prompt."""
    return isinstance(value, Story) or (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(one, list | tuple)
            and len(one) == 2
            and isinstance(one[0], int | float)
            and isinstance(one[1], str)
            for one in value
        )
    )
