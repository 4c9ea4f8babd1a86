"""Keys and chords: which pitches belong to a moment of a piece."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Mode = Literal["major", "minor"]
SCALES: dict[str, list[int]] = {"major": [0, 2, 4, 5, 7, 9, 11], "minor": [0, 2, 3, 5, 7, 8, 10]}
# The tonics as they are usually written in each mode.
NAMES = {
    "major": ["C", "D flat", "D", "E flat", "E", "F", "F sharp", "G", "A flat", "A", "B flat", "B"],
    "minor": ["C", "C sharp", "D", "E flat", "E", "F", "F sharp", "G", "G sharp", "A", "B flat",
              "B"],
}  # fmt: skip

# Four chords that come home, and four that stop half way, on the dominant; degrees from 0.
HOME: dict[str, list[list[int]]] = {
    "major": [[0, 3, 4, 0], [0, 5, 4, 0], [3, 1, 4, 0], [5, 3, 4, 0], [0, 1, 4, 0]],
    "minor": [[0, 3, 4, 0], [0, 5, 4, 0], [5, 6, 4, 0], [0, 5, 6, 0], [3, 0, 4, 0]],
}
HALF: dict[str, list[list[int]]] = {
    "major": [[0, 5, 3, 4], [0, 3, 0, 4], [0, 2, 3, 4], [0, 4, 5, 4]],
    "minor": [[0, 5, 3, 4], [0, 6, 5, 4], [0, 3, 0, 4], [0, 2, 5, 4]],
}


@dataclass(frozen=True, kw_only=True)
class Note:
    """Times in beats; for drums, `pitch` is the drum in General MIDI."""

    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True, kw_only=True)
class Harmony:
    """The key and the chords of a piece; `degrees` has 4 chords for 2 or 4 bars, or 8 for 8."""

    tonic: int
    mode: Mode
    beats_per_bar: int
    num_bars: int
    degrees: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"{NAMES[self.mode][self.tonic]} {self.mode}"

    @property
    def num_beats(self) -> int:
        return self.num_bars * self.beats_per_bar

    @property
    def beats_per_chord(self) -> float:
        return self.num_beats / len(self.degrees)

    def scale_pitches(self) -> list[int]:
        """The pitch classes of the key."""
        return [(self.tonic + step) % 12 for step in SCALES[self.mode]]

    def chord_pitches(self, beat: float) -> list[int]:
        """The pitch classes of the chord at a beat: root, third, fifth."""
        degree = self.degrees[min(int(beat / self.beats_per_chord), len(self.degrees) - 1)]
        scale = SCALES[self.mode]
        steps = [scale[(degree + third) % 7] for third in (0, 2, 4)]
        if self.mode == "minor" and degree == 4:
            steps[1] = 11  # the leading note: a dominant in minor has a major third
        return [(self.tonic + step) % 12 for step in steps]


def choose_harmony(
    mode: Mode, *, num_bars: int, beats_per_bar: int, rng: np.random.Generator
) -> Harmony:
    """Draws a key and chords that end on its tonic."""
    home = HOME[mode][rng.integers(len(HOME[mode]))]
    half = HALF[mode][rng.integers(len(HALF[mode]))] if num_bars == 8 else []
    return Harmony(
        tonic=int(rng.integers(12)),
        mode=mode,
        beats_per_bar=beats_per_bar,
        num_bars=num_bars,
        degrees=(*half, *home),
    )
