"""Stories: prompts that change with time, at once or gradually."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from itertools import pairwise
from typing import Any

_AT_ONCE = 1e-6  # seconds of a change of guidance without a transition


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Settings of a part of a story; None keeps the request's.

    Args:
        over: seconds of the transition from the part before, which ends at the part's start. During
            it the text's embedding, guidance and strength change linearly, and the noise turns.
        strength: of a variation.
    """

    over: float = 0.0
    seed: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("over", 0.0, math.inf),
            ("guidance_scale", 1.0, 1e6),
            ("strength", 0.001, 1.0),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and math.isfinite(value)
            if value is not None and not (number and least <= value <= most):
                raise ValueError(
                    f"{name} of a part of a story must be a number of at least {least:g}"
                    f"{f' and at most {most:g}' if most == 1 else ''}, got {value!r}."
                )
        if self.seed is not None:
            from lm_audio.sampling import check_seed  # needs torch, which --help does not

            check_seed(self.seed)

    def __str__(self) -> str:
        """As in `parse`, with a space before each setting."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        given["over"] = self.over or None
        return "".join(
            f" {name}={x}" if name == "seed" else f" {name}={x:g}"
            for name, x in given.items()
            if x is not None
        )


@dataclass(frozen=True)
class Story:
    """Prompts and the seconds of new audio from which each holds; the first at 0.

    A part may have settings, those of `Turn`.

    Example:
        Story([(0.0, "calm piano"), (15.0, "a storm breaks", {"over": 5.0, "seed": 7})])
    """

    parts: Sequence[tuple[float, str]]
    turns: tuple[Turn, ...] = field(init=False)

    def __post_init__(self) -> None:
        given: Sequence[Any] = self.parts
        object.__setattr__(self, "parts", tuple((float(at), text) for at, text, *_ in given))
        object.__setattr__(self, "turns", tuple(_turn(part[2:]) for part in given))
        starts = [at for at, _ in self.parts]
        if not all(math.isfinite(at) for at in starts):
            raise ValueError(f"The times of a story must be finite, got {starts}.")
        if starts[:1] != [0] or any(after <= before for before, after in pairwise(starts)):
            raise ValueError(f"The times of a story must start at 0 and increase, got {starts}.")
        for _, text in self.parts:
            if not isinstance(text, str):
                raise ValueError(f"The prompts of a story must be strings, got {text!r}.")
        for (before, _), (at, _), turn in zip(
            [(0.0, ""), *self.parts], self.parts, self.turns, strict=False
        ):
            if turn.over > at - before:
                raise ValueError(
                    f"The transition to the part at {at:g} s takes {turn.over:g} s; it must not be "
                    f"longer than the part before, {at - before:g} s."
                )

    def __str__(self) -> str:
        """As in `parse`."""
        pairs = zip(self.parts, self.turns, strict=True)
        return "; ".join(f"{at:g}{turn}: {text}" for (at, text), turn in pairs)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(text for _, text in self.parts)

    @property
    def has_settings(self) -> bool:
        """Whether some part has settings, which only models of diffusion follow."""
        return any(turn != Turn() for turn in self.turns)

    def part_at(self, frame: int, rate: Fraction) -> int:
        """The index of the part that a frame of new audio belongs to."""
        starts = [round(Fraction(at) * rate) for at, _ in self.parts]
        return max(0, bisect_right(starts, frame) - 1)

    def next_start(self, frame: int, rate: Fraction) -> int | None:
        """The first frame after a frame that a part without a transition begins with, if any."""
        starts = [
            round(Fraction(at) * rate)
            for (at, _), turn in zip(self.parts, self.turns, strict=True)
            if not turn.over
        ]
        return next((start for start in starts if start > frame), None)

    def moment(self, frame: int, rate: Fraction) -> tuple[int, float]:
        """The index of a frame's part, and how far it has turned into the next: from 0 to 1."""
        part = self.part_at(frame, rate)
        if part + 1 == len(self.parts) or not (over := self.turns[part + 1].over):
            return part, 0.0
        begun = float(frame / rate) - (self.parts[part + 1][0] - over)
        return part, min(1.0, max(0.0, begun / over))

    def between(
        self, setting: Callable[[Turn], float | None], usual: float, moment: tuple[int, float]
    ) -> float:
        """A setting at a moment, linear in transitions.

        Args:
            usual: where a part does not have it.
        """
        part, share = moment
        now, then = (
            usual if (value := setting(turn)) is None else value
            for turn in (self.turns[part], self.turns[min(part + 1, len(self.turns) - 1)])
        )
        return now + share * (then - now)

    def guidance(self, usual: float) -> tuple[float, tuple[tuple[float, float], ...]]:
        """The guidance scale and its schedule, as in `Denoising`.

        Args:
            usual: the scale where a part has none.
        """
        scales = [usual if x.guidance_scale is None else x.guidance_scale for x in self.turns]
        highest = max(scales)
        if len(set(scales)) == 1:
            return highest, ()
        points: list[tuple[float, float]] = []
        for (at, _), turn, before, scale in zip(
            self.parts, self.turns, [scales[0], *scales], scales, strict=False
        ):
            if at and at - max(turn.over, _AT_ONCE) > points[-1][0]:
                points.append((at - max(turn.over, _AT_ONCE), before))
            points.append((at, scale))
        return highest, tuple((at, (x - 1) / (highest - 1)) for at, x in points)


def _turn(given: Sequence[Any]) -> Turn:
    """The settings of a part, from what follows its text."""
    if not given:
        return Turn()
    settings = given[0]
    known = [one.name for one in fields(Turn)]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(
            f"A part of a story has no setting {unknown[0]!r}. It has: {', '.join(known)}."
        )
    return Turn(**settings)


def as_story(value: Any) -> Story:
    """A story as it is, or from such a list."""
    return value if isinstance(value, Story) else Story(value)


def parse(text: str) -> Story:
    """A story such as "0: calm piano; 15 over=5 seed=7: a storm breaks".

    Prompts cannot contain semicolons.
    """
    form = 'A story is written as "0: calm piano; 15: a storm breaks" (seconds'
    parts: list[Any] = []
    for part in filter(str.strip, text.split(";")):
        head, colon, prompt = part.partition(":")
        first, *settings = head.split() or [""]
        plain = f"{first}{colon}{prompt}" if all("=" in one for one in settings) else part
        ((at, words),) = numbered(plain, form=form)
        parts.append((at, words, dict(map(_setting, settings))))
    return Story(parts)


def _setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, int(value) if name == "seed" else float(value)
    except ValueError:
        raise ValueError(
            f'A part of a story has settings such as "over=5", before its colon, got {text!r}.'
        ) from None


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
    """Whether a value is a story, or lists seconds and prompts, perhaps with settings."""
    return isinstance(value, Story) or (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(one, list | tuple)
            and len(one) in (2, 3)
            and isinstance(one[0], int | float)
            and isinstance(one[1], str)
            and all(isinstance(settings, Mapping) for settings in one[2:])
            for one in value
        )
    )
