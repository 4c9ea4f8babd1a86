"""A minimal formant synthesiser: letters become resonances of a vocal tract.

It replaces a real synthesiser in tests and first runs. Vowels and hisses differ as in speech, and
per voice, so recipes have something to learn, but the result is unintelligible.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (280, 2250, 2890),
    "o": (570, 840, 2410),
    "u": (310, 870, 2240),
}
HISSES = {"s": 6000, "z": 6000, "x": 5000, "c": 5000, "f": 4000, "v": 4000, "j": 3000, "h": 1500}
STOPS = {"p": 800, "b": 800, "t": 4000, "d": 4000, "k": 2000, "g": 2000, "q": 2000}
SONORANTS = {
    "m": (250, 1000, 2200),
    "n": (250, 1400, 2300),
    "l": (360, 1300, 2600),
    "r": (420, 1300, 1600),
    "w": (300, 650, 2200),
    "y": (280, 2100, 2900),
}
VOICED = set("zvjbdg")
BANDWIDTHS = (90.0, 110.0, 170.0)
FADE_SECONDS = 0.012


@dataclass(frozen=True, kw_only=True)
class FormantVoice:
    """Args:
    pitch: Hz.
    tract: the formants' factor; a shorter throat has higher ones.
    breath: the share of noise in the voice.
    """

    pitch: float
    tract: float
    breath: float


VOICES = {
    "low": FormantVoice(pitch=95, tract=0.92, breath=0.02),
    "middle": FormantVoice(pitch=150, tract=1.0, breath=0.1),
    "high": FormantVoice(pitch=220, tract=1.15, breath=0.05),
    "small": FormantVoice(pitch=310, tract=1.35, breath=0.15),
}


def speak(
    text: str,
    voice: FormantVoice,
    *,
    speed: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Reads a text aloud: [N], float32, peak 0.5. It takes about 0.08 s a letter."""
    sounds = list(_sounds(text.lower(), voice, rng=rng))
    lengths = [max(1, round(seconds / speed * sample_rate)) for seconds, *_ in sounds]
    fade = round(FADE_SECONDS * sample_rate)
    total = sum(lengths) + 2 * fade
    source = _pulses(total, voice, sample_rate=sample_rate, rng=rng)
    hiss = rng.standard_normal(total)
    speech = np.zeros(total)
    start = 0
    for length, (_, level, hiss_level, peaks) in zip(lengths, sounds, strict=True):
        # Neighbours fade into one another, half of each beyond its border.
        stop = start + length + 2 * fade
        window = np.minimum(
            1,
            np.minimum(np.arange(1, stop - start + 1), np.arange(stop - start, 0, -1)) / (2 * fade),
        )
        excitation = level * source[start:stop] + hiss_level * hiss[start:stop]
        speech[start:stop] += window * _resonate(excitation, peaks, sample_rate=sample_rate)
        start += length
    return (0.5 * speech / max(np.abs(speech).max(), 1e-9)).astype(np.float32)


Sound = tuple[float, float, float, list[tuple[float, float]]]
"""Seconds, levels of voice and hiss, and the centres and widths of resonances in Hz."""


def _sounds(text: str, voice: FormantVoice, *, rng: np.random.Generator) -> Iterator[Sound]:
    for letter in text:
        seconds = 0.08 * rng.uniform(0.85, 1.15)
        if letter in VOWELS or letter in SONORANTS:
            formants = VOWELS.get(letter) or SONORANTS[letter]
            peaks = [(voice.tract * f, w) for f, w in zip(formants, BANDWIDTHS, strict=True)]
            if letter in VOWELS:
                yield 1.3 * seconds, 1.0, voice.breath, peaks
            else:
                yield 0.8 * seconds, 0.5, voice.breath / 2, peaks
        elif letter in HISSES:
            centre = voice.tract * HISSES[letter]
            yield seconds, 0.2 * (letter in VOICED), 0.15, [(centre, centre / 2)]
        elif letter in STOPS:
            centre = voice.tract * STOPS[letter]
            yield 0.5 * seconds, 0.1 * (letter in VOICED), 0.0, [(200, 200)]
            yield 0.25 * seconds, 0.1 * (letter in VOICED), 0.3, [(centre, centre)]
        else:  # a pause, longer where a sentence ends
            yield (0.25 if letter in ".?!" else 0.05), 0.0, 0.0, [(500, 500)]


def _pulses(
    length: int, voice: FormantVoice, *, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """The glottis: a pulse a period, falling in pitch, with a melody: [length]."""
    time = np.arange(length) / sample_rate
    points = np.arange(int(3 * time[-1]) + 2) / 3
    melody = np.interp(time, points, rng.uniform(-0.12, 0.12, len(points)))
    pitch = voice.pitch * np.exp(melody - 0.15 * time / time[-1])
    phase = np.cumsum(pitch) / sample_rate
    return np.diff(np.floor(phase), prepend=0.0) * np.sqrt(sample_rate / pitch)


def _resonate(
    excitation: np.ndarray, peaks: list[tuple[float, float]], *, sample_rate: int
) -> np.ndarray:
    """The excitation through resonances, the higher ones weaker, at the same length."""
    size = 2 * len(excitation)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    gain = np.zeros_like(frequencies)
    for number, (centre, width) in enumerate(peaks):
        gain += 0.6**number / (1 + ((frequencies - centre) / (width / 2)) ** 2) ** 0.5
    return np.fft.irfft(np.fft.rfft(excitation, size) * gain, size)[: len(excitation)]
