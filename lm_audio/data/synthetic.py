"""Synthetic sounds, for trying a recipe or a codec without recordings."""

import numpy as np

from lm_audio.data.corpus import Recording


def demo_clip(*, sample_rate: int, seed: int = 0) -> np.ndarray:
    """Four seconds of plucked strings, a bird and rain: [N], float32, peak 0.5."""
    rng = np.random.default_rng(seed)
    length = 4 * sample_rate
    mix = np.zeros(length, dtype=np.float32)
    for number, semitone in enumerate([0, 7, 12, 16, 19, 24, 19, 16]):
        note = pluck(220 * 2 ** (semitone / 12), seconds=1.6, sample_rate=sample_rate, rng=rng)
        _add(mix, note, at=int(0.45 * number * sample_rate))
    for start in (0.8, 1.1, 2.6, 2.8, 3.0):
        _add(mix, 0.25 * chirp(0.18, sample_rate=sample_rate, rng=rng), at=int(start * sample_rate))
    _add(mix, 0.06 * rain(4.0, sample_rate=sample_rate, rng=rng), at=0)
    return 0.5 * mix / np.abs(mix).max()


def synthetic_clips(
    *, num_clips: int, seconds: float, sample_rate: int, seed: int
) -> list[Recording]:
    """Clips of plucked notes, chirps or rain in turn, for recipes without data."""
    clips = []
    for number in range(num_clips):
        rng = np.random.default_rng([seed, number])
        kind = ("pluck", "chirp", "rain")[number % 3]
        samples = np.zeros(int(seconds * sample_rate), dtype=np.float32)
        if kind == "rain":
            _add(samples, 0.3 * rain(seconds, sample_rate=sample_rate, rng=rng), at=0)
        else:
            for start in np.arange(0, seconds, 0.5):
                sound = (
                    pluck(rng.uniform(80, 800), seconds=1.0, sample_rate=sample_rate, rng=rng)
                    if kind == "pluck"
                    else chirp(0.3, sample_rate=sample_rate, rng=rng)
                )
                _add(samples, 0.5 * sound, at=int(start * sample_rate))
        pcm = (np.clip(samples, -1, 1) * 32767).round().astype(np.int16)
        clips.append(Recording(kind=kind, name=f"{kind}-{number}", samples=pcm))
    return clips


def pluck(
    frequency: float, *, seconds: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """A plucked string: harmonics, the higher ones decaying faster. [N], peak about 1."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    sound = np.zeros_like(time)
    for harmonic in range(1, int(min(20, sample_rate / 2.2 / frequency)) + 1):
        phase = rng.uniform(0, 2 * np.pi)
        decay = np.exp(-time * (2 + 0.7 * harmonic))
        sound += decay / harmonic * np.sin(2 * np.pi * frequency * harmonic * time + phase)
    attack = np.minimum(1, time / 0.003)
    return (sound * attack / max(np.abs(sound).max(), 1e-9)).astype(np.float32)


def chirp(seconds: float, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A bird-like glide around 3 kHz: [N], peak about 1."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    frequency = 2500 + rng.uniform(0, 1500) + 900 * np.sin(2 * np.pi * time / seconds)
    phase = 2 * np.pi * np.cumsum(frequency) / sample_rate
    return (np.sin(phase) * np.hanning(len(time))).astype(np.float32)


def rain(seconds: float, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Steady noise with drops in it: [N], standard deviation about 1."""
    length = int(seconds * sample_rate)
    hiss = rng.standard_normal(length)
    drops = (rng.random(length) < 80 / sample_rate) * rng.exponential(4, length)
    tail = np.exp(-np.arange(int(0.004 * sample_rate)) / (0.001 * sample_rate))
    splashes = np.convolve(drops, tail, mode="same") * rng.standard_normal(length)
    return (0.7 * hiss + splashes).astype(np.float32)


def _add(mix: np.ndarray, sound: np.ndarray, *, at: int) -> None:
    """Adds a sound in place, from sample `at` on, and truncates it at the end of the mix."""
    end = min(len(mix), at + len(sound))
    mix[at:end] += sound[: end - at]
