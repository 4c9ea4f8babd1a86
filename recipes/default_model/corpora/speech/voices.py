"""Speakers, and captions that describe only the voice, its words and its pace."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Person = Literal["woman", "man", "person", "robot"]

NAMES: dict[Person, tuple[str, ...]] = {
    "woman": ("a woman", "a female voice", "a lady"),
    "man": ("a man", "a male voice", "a guy"),
    "person": ("a person", "someone", "a human voice"),
    "robot": ("a robot", "a robotic voice", "a synthetic voice"),
}
ACCENTS = {"a": "American", "b": "British"}
PERSONS: dict[str, Person] = {"f": "woman", "m": "man"}
FRAMES = (
    "{} speaks",
    "{} talking",
    "{} says something",
    "{} is speaking",
    "the speech of {}",
    "{} reads a sentence",
)
FRAMES_WITH_WORDS = ('{} says "{}"', '{} speaks the words "{}"', '{} reads: "{}"')
FRAMES_WITH_PACE = ("{} speaks {}", "{} talks {}")
UNSEEN_FRAMES = ("the sound of {} in conversation", "{} gives a talk", "hear {} utter a phrase")
SLOW, QUICK = 0.92, 1.08


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A speaker: its name in a corpus, and its audible attributes."""

    name: str
    person: Person
    accent: str | None = None

    @property
    def names(self) -> list[str]:
        """What it may be called in a caption."""
        plain = NAMES[self.person]
        if self.accent is None:
            return list(plain)
        article = "an" if self.accent[0] in "AEIOU" else "a"
        accented = [f"{name} with {article} {self.accent} accent" for name in plain[:2]]
        return [*plain, *accented, f"{article} {self.accent} {self.person}"]


def kokoro_voice(name: str) -> Voice:
    """The voice that a name of Kokoro's stands for: bf_emma is a British woman."""
    prefix = name.split("_")[0]
    if len(prefix) == 2 and prefix[0] in ACCENTS and prefix[1] in PERSONS:
        return Voice(name=name, person=PERSONS[prefix[1]], accent=ACCENTS[prefix[0]])
    return Voice(name=name, person="person")


def speech_captions(
    voice: Voice, text: str, *, speed: float, rng: np.random.Generator
) -> list[str]:
    """Captions of one utterance: without its words, with them, and with its pace if it has one.

    Args:
        speed: 1 is the voice's own pace, more is quicker.
    """

    def who() -> str:
        return voice.names[int(rng.integers(len(voice.names)))]

    captions = [frame.format(who()) for frame in rng.permutation(FRAMES)[:4]]
    if speed <= SLOW or speed >= QUICK:
        pace = "slowly" if speed <= SLOW else "quickly"
        captions += [frame.format(who(), pace) for frame in FRAMES_WITH_PACE]
    captions += [frame.format(who(), text) for frame in rng.permutation(FRAMES_WITH_WORDS)[:2]]
    return captions


def unseen_captions(voice: Voice) -> list[str]:
    """Wordings for tests, which `speech_captions` never uses."""
    return [frame.format(name) for frame in UNSEEN_FRAMES for name in voice.names]
