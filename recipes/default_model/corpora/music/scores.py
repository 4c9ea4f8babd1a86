"""Short pieces by the rules of harmony: a key, chords that lead home, a melody that has phrases.

    score = compose(7, seed=0)

A piece has 2, 4 or 8 bars. Its chords begin and end on the tonic, with the dominant before the end
and, in 8 bars, in the middle. The first bar's rhythm comes back; strong beats take notes of the
chord, the others move by step through the scale; the last note is the tonic.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from corpora.music.accompaniment import bass_line, chord_pattern, drum_pattern
from corpora.music.harmony import Harmony, Note, choose_harmony
from corpora.music.instruments import INSTRUMENTS, Role, playing

Pace = Literal["slow", "", "fast"]
LENGTHS = (4.0, 10.0)
"""The shortest and the longest piece, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Mood:
    """What a mood asks of a piece; `tempo` in beats a minute, `loudness` a factor of velocities."""

    modes: tuple[Literal["major", "minor"], ...]
    tempo: tuple[int, int]
    loudness: float


MOODS = {
    "happy": Mood(modes=("major",), tempo=(104, 144), loudness=1.0),
    "sad": Mood(modes=("minor",), tempo=(54, 78), loudness=0.75),
    "calm": Mood(modes=("major",), tempo=(56, 84), loudness=0.65),
    "tense": Mood(modes=("minor",), tempo=(108, 150), loudness=1.05),
    "solemn": Mood(modes=("major", "minor"), tempo=(50, 70), loudness=0.95),
    "romantic": Mood(modes=("major",), tempo=(64, 92), loudness=0.8),
    "mysterious": Mood(modes=("minor",), tempo=(68, 100), loudness=0.7),
    "energetic": Mood(modes=("major", "minor"), tempo=(132, 172), loudness=1.15),
}

# Rhythms of a bar in beats, by beats in a bar and density.
RHYTHMS: dict[int, dict[str, list[list[float]]]] = {
    4: {
        "sparse": [[2, 2], [3, 1], [4], [2, 1, 1]],
        "": [[1, 1, 1, 1], [1.5, 0.5, 1, 1], [1, 0.5, 0.5, 2], [1, 1, 2], [0.5, 0.5, 1, 2]],
        "busy": [[0.5] * 8, [0.5, 0.5, 0.5, 0.5, 1, 1], [1, 0.5, 0.5, 0.5, 0.5, 1],
                 [0.75, 0.25, 0.5, 0.5, 1, 0.5, 0.5]],
    },
    3: {
        "sparse": [[3], [2, 1]],
        "": [[1, 1, 1], [1.5, 0.5, 1], [2, 0.5, 0.5]],
        "busy": [[0.5] * 6, [1, 0.5, 0.5, 0.5, 0.5], [0.75, 0.25, 1, 0.5, 0.5]],
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Part:
    instrument: str
    role: Role
    notes: tuple[Note, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A piece; times of notes are beats, and the first part is the lead."""

    harmony: Harmony
    tempo: int
    mood: str
    density: str
    parts: tuple[Part, ...]
    seconds: float
    seed: int
    number: int

    @property
    def pace(self) -> Pace:
        return "slow" if self.tempo < 82 else "fast" if self.tempo > 116 else ""

    @property
    def instruments(self) -> list[str]:
        """The names of those who play, each once, the lead first."""
        return list(dict.fromkeys(part.instrument for part in self.parts))


def compose(
    number: int,
    *,
    seed: int,
    solo: str | None = None,
    lengths: tuple[float, float] = LENGTHS,
) -> Score:
    """Composes piece `number`; the instruments take turns in the lead, all else is drawn.

    Args:
        solo: the instrument that plays alone.
        lengths: the shortest and the longest piece, in seconds.
    """
    rng = np.random.default_rng([seed, number, 0])
    mood_name = str(rng.choice(list(MOODS)))
    mood = MOODS[mood_name]
    tempo = int(rng.integers(mood.tempo[0], mood.tempo[1] + 1))
    beats = 3 if rng.random() < 0.2 else 4
    mode = mood.modes[rng.integers(len(mood.modes))]
    num_bars = _num_bars(tempo, beats, lengths, rng)
    harmony = choose_harmony(mode, num_bars=num_bars, beats_per_bar=beats, rng=rng)
    lead = solo or list(INSTRUMENTS)[number % len(INSTRUMENTS)]
    density = ["sparse", "", "busy"][rng.choice(3, p=[0.25, 0.45, 0.3])]
    parts = [
        Part(
            instrument=name,
            role=role,
            notes=_played(role, name, harmony, density, tempo, mood.loudness, rng),
        )
        for name, role in _ensemble(lead, rng, solo=solo is not None)
    ]
    ring = rng.uniform(0.6, 1.2)
    seconds = harmony.num_beats * 60 / tempo + ring
    return Score(
        harmony=harmony,
        tempo=tempo,
        mood=mood_name,
        density=density,
        parts=tuple(parts),
        seconds=round(float(np.clip(seconds, *lengths)), 2),
        seed=seed,
        number=number,
    )


def _num_bars(
    tempo: int, beats: int, lengths: tuple[float, float], rng: np.random.Generator
) -> int:
    least, most = (seconds - 0.8 for seconds in lengths)  # the last notes ring
    fitting = [bars for bars in (2, 4, 8) if least <= bars * beats * 60 / tempo <= most]
    if fitting:
        return int(rng.choice(fitting))
    return 2 if 2 * beats * 60 / tempo > most else 8


def _ensemble(lead: str, rng: np.random.Generator, *, solo: bool) -> list[tuple[str, Role]]:
    """Who plays what: the lead alone, with a second instrument, or with a small band."""
    roles = INSTRUMENTS[lead].roles
    form = "solo" if solo else ["solo", "duo", "band"][rng.choice(3, p=[0.5, 0.3, 0.2])]
    if "melody" not in roles:
        own: Role = roles[0]
        others: list[Role] = ["bass"] if own == "drums" else ["drums"]
        if form == "solo":
            return [(lead, own)]
        if form == "band":
            others.append("chords")
        return [(lead, own), *_others(others, {lead}, rng)]
    if form == "solo":
        both_hands = "chords" in roles and rng.random() < 0.7
        return [(lead, "melody"), (lead, "chords")] if both_hands else [(lead, "melody")]
    if form == "duo":
        second: Role = "chords" if rng.random() < 0.7 else "bass"
        return [(lead, "melody"), *_others([second], {lead}, rng)]
    band: list[Role] = ["chords", "bass"] if rng.random() < 0.35 else ["chords", "bass", "drums"]
    return [(lead, "melody"), *_others(band, {lead}, rng)]


def _others(roles: list[Role], taken: set[str], rng: np.random.Generator) -> list[tuple[str, Role]]:
    found: list[tuple[str, Role]] = []
    for role in roles:
        free = [name for name in playing(role) if name not in taken]
        name = str(rng.choice(free))
        taken = taken | {name}
        found.append((name, role))
    return found


def _played(
    role: Role,
    name: str,
    harmony: Harmony,
    density: str,
    tempo: int,
    loudness: float,
    rng: np.random.Generator,
) -> tuple[Note, ...]:
    """The notes of a part as a person plays them: not quite in time, not quite even."""
    if role == "melody":
        notes = melody(name, harmony, density=density, rng=rng)
    elif role == "chords":
        sustained = INSTRUMENTS[name].touch == "held"
        notes = chord_pattern(harmony, density=density, sustained=sustained, rng=rng)
    elif role == "bass":
        notes = bass_line(harmony, density=density, low=INSTRUMENTS[name].low, rng=rng)
    else:
        notes = drum_pattern(harmony, density=density, rng=rng)
    late = 0.008 * tempo / 60  # beats
    return tuple(
        Note(
            start=max(0.0, note.start + late * float(rng.standard_normal())),
            length=note.length,
            pitch=note.pitch,
            velocity=int(np.clip(note.velocity * loudness + 4 * rng.standard_normal(), 20, 120)),
        )
        for note in notes
    )


def melody(name: str, harmony: Harmony, *, density: str, rng: np.random.Generator) -> list[Note]:
    """A line of one note at a time, in the range of its instrument, that ends on the tonic."""
    instrument = INSTRUMENTS[name]
    pool = RHYTHMS[harmony.beats_per_bar][density]
    theme, answer = (pool[rng.integers(len(pool))] for _ in range(2))
    room = instrument.high - instrument.low
    centre, height = instrument.low + room * rng.uniform(0.3, 0.5), room * rng.uniform(0.2, 0.4)
    pitch, notes = centre, []
    num_bars = harmony.num_bars
    for bar in range(num_bars):
        rhythm = theme if bar % 2 == 0 else answer
        if bar == num_bars - 1:
            rhythm = [1.0, harmony.beats_per_bar - 1.0]
        now = float(bar * harmony.beats_per_bar)
        for number, length in enumerate(rhythm):
            goal = centre + height * np.sin(np.pi * now / harmony.num_beats)
            strong = number == 0 or (now == int(now) and rng.random() < 0.5)
            last = bar == num_bars - 1 and number == len(rhythm) - 1
            choices = harmony.chord_pitches(now) if strong else harmony.scale_pitches()
            if last:
                choices = [harmony.tonic]
            pitch = _next_pitch(
                pitch, goal, choices, low=instrument.low, high=instrument.high, rng=rng
            )
            accent = 6 if number == 0 else 0
            notes.append(
                Note(start=now, length=0.95 * length, pitch=int(pitch), velocity=92 + accent)
            )
            now += length
    return notes


def _next_pitch(
    pitch: float, goal: float, classes: list[int], *, low: int, high: int, rng: np.random.Generator
) -> float:
    """A pitch of one of the classes, near to the last one and not far from the goal."""
    candidates = np.array([p for p in range(low, high + 1) if p % 12 in classes])
    cost = np.abs(candidates - pitch) + 0.4 * np.abs(candidates - goal)
    cost += 1.5 * (candidates == pitch) + rng.exponential(1.2, len(candidates))
    return float(candidates[cost.argmin()])
