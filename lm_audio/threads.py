"""Work that leaves no idle threads behind.

GNU OpenMP keeps a team of threads for every thread that has ever used torch. Once all teams
outnumber the processors, none of them waits for its next work at the processor any more: the system
has to wake it, thousands of times for a second of sound, which then takes three times as long. So
whoever is done dismisses its team; a new one takes a fraction of a millisecond.
"""

import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from lm_audio.system import dismiss_team

Given = ParamSpec("Given")
Made = TypeVar("Made")


def dismissing(work: Callable[Given, Made]) -> Callable[Given, Made]:
    """Decorates a function: the thread that calls it has no team afterwards."""

    @functools.wraps(work)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return work(*args, **kwargs)
        finally:
            dismiss_team()

    return wrapped


def dismissing_between(
    work: Callable[Given, Iterator[Made]],
) -> Callable[Given, Iterator[Made]]:
    """Decorates a generator: no thread that asks it for a piece has a team afterwards."""

    @functools.wraps(work)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Iterator[Made]:
        pieces = work(*args, **kwargs)
        while True:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            finally:
                dismiss_team()
            yield piece

    return wrapped
