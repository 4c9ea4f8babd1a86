"""Scores to sound with nothing but numpy: plain tones that die away or are held, and drums."""

import numpy as np

from corpora.music.accompaniment import (
    CLOSED_HAT,
    CRASH,
    HIGH_TOM,
    KICK,
    LOW_TOM,
    MIDDLE_TOM,
    OPEN_HAT,
    RIDE,
    SNARE,
    STICK,
)
from corpora.music.harmony import Note
from corpora.music.instruments import INSTRUMENTS
from corpora.music.scores import Score
from corpora.signals import (
    add,
    band,
    burst,
    decaying,
    held,
    modes,
    num_samples,
    saw,
    square,
    times,
    tone,
)

# The harmonics of those that are told apart by them; the others have a saw's.
TIMBRES = {
    "flute": saw(4, tilt=2.5),
    "clarinet": square(15, tilt=1.2),
    "organ": np.array([1, 0.8, 0.3, 0.6, 0.05, 0.2, 0.02, 0.3]),
    "trumpet": saw(20, tilt=0.6),
    "violin": saw(20, tilt=0.9),
    "xylophone": np.array([1, 0, 0.4, 0, 0, 0.1]),
    "marimba": np.array([1, 0, 0, 0.3]),
    "choir": np.array([1, 0.7, 0.5, 0.1, 0.05]),
}
LEVELS = {"melody": 1.0, "chords": 0.45, "bass": 0.8, "drums": 0.8}
TOMS = {HIGH_TOM: 190, MIDDLE_TOM: 150, LOW_TOM: 115}
# Seconds to 1/e, and the band of the noise.
NOISES = {
    SNARE: (0.07, 300.0, 7_000.0),
    CLOSED_HAT: (0.025, 6_000.0, 14_000.0),
    OPEN_HAT: (0.15, 5_000.0, 14_000.0),
    RIDE: (0.2, 4_000.0, 12_000.0),
    CRASH: (0.5, 2_000.0, 12_000.0),
}


def render_score(score: Score, *, sample_rate: int) -> np.ndarray:
    """[N], at any level."""
    rng = np.random.default_rng([score.seed, score.number, 1])
    mix = np.zeros(num_samples(score.seconds, sample_rate))
    beat = 60 / score.tempo
    for part in score.parts:
        for note in part.notes:
            sound = (
                _drum(note.pitch, sample_rate=sample_rate, rng=rng)
                if part.role == "drums"
                else _tone(part.instrument, note, seconds=note.length * beat,
                           sample_rate=sample_rate)
            )  # fmt: skip
            level = LEVELS[part.role] * (note.velocity / 100) ** 2
            add(mix, level * sound, at=round(note.start * beat * sample_rate))
    return mix


def _tone(name: str, note: Note, *, seconds: float, sample_rate: int) -> np.ndarray:
    hertz = 440 * 2 ** ((note.pitch - 69) / 12)
    amplitudes = TIMBRES.get(name, saw(12, tilt=1.4))
    if INSTRUMENTS[name].touch == "held":
        time = times(seconds + 0.08, sample_rate)
        vibrato = 1 + 0.004 * np.sin(2 * np.pi * 5.5 * time) * np.minimum(1, time / 0.4)
        sound = tone(hertz * vibrato, amplitudes, sample_rate=sample_rate)
        return 0.4 * sound * held(len(sound), attack=0.05, release=0.08, sample_rate=sample_rate)
    time = times(min(seconds + 0.3, 3.0), sample_rate)
    sound = np.zeros_like(time)
    for number, amplitude in enumerate(amplitudes, 1):
        if number * hertz < 0.47 * sample_rate:  # the higher ones die sooner
            decay = 0.9 * (220 / hertz) ** 0.5 / number**0.6
            sound += amplitude * np.sin(2 * np.pi * number * hertz * time) * np.exp(-time / decay)
    return sound * held(len(sound), attack=0.003, release=0.1, sample_rate=sample_rate)


def _drum(pitch: int, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    if pitch == KICK:
        time = times(0.35, sample_rate)
        sweep = tone(48 + 110 * np.exp(-time / 0.025), sample_rate=sample_rate)
        return 1.5 * sweep * decaying(len(time), 0.1, attack=0.001, sample_rate=sample_rate)
    if pitch == STICK:
        return modes(np.array([1700.0, 2400.0]), np.array([0.012, 0.01]), np.array([0.6, 0.4]),
                     sample_rate=sample_rate, rng=rng)  # fmt: skip
    if pitch in TOMS:
        partials = TOMS[pitch] * np.array([1, 1.6, 2.2])
        return modes(partials, np.array([0.16, 0.09, 0.06]), np.array([1, 0.4, 0.2]),
                     sample_rate=sample_rate, rng=rng)  # fmt: skip
    decay, low, high = NOISES[pitch]
    level = 0.8 if pitch == SNARE else 0.3
    audible = band(min(low, 0.3 * sample_rate), high)
    return level * burst(decay, audible, sample_rate=sample_rate, rng=rng)
