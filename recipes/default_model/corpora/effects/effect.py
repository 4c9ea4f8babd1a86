"""Definition of an effect: a function that makes the sound, and words for its parameters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# From a word to the range of its parameter. The empty word is for values not worth mentioning.
Words = dict[str, tuple[float, float]]

# make(seconds, sample_rate=..., rng=..., **numbers) -> [N], at any level
Maker = Callable[..., np.ndarray]

INDOORS = ("hall", "wall")
OUTDOORS = ("distant",)


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A class of sounds.

    Attributes:
        attributes: for each number that `make` takes, the words for its ranges: what is drawn is
            a word and then a number within its range, so captions are exact.
        places: where it may be heard other than close by: in a large hall, behind a wall, from a
            distance in the open.
        seconds: the shortest and longest clip that makes sense.
    """

    make: Maker
    attributes: dict[str, Words]
    places: tuple[str, ...] = INDOORS
    seconds: tuple[float, float] = (3.0, 8.0)
