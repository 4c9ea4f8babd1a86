"""The place around a sound: walls that reflect, air that dulls, and the level at which it comes."""

import numpy as np

from lm_audio.data.effects.signals import band, convolved, filtered, num_samples, times


def in_room(
    samples: np.ndarray,
    *,
    reverberation: float,
    wet: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Some early reflections and a tail that takes `reverberation` seconds to fall by 60 dB.

    Args:
        wet: the energy of the reflections, relative to the sound that comes straight.
    """
    time = times(reverberation, sample_rate)
    tail = rng.standard_normal(len(time))
    bright = filtered(tail, band(80, 12_000, order=1), sample_rate=sample_rate)
    dull = filtered(tail, band(80, 2_000, order=1), sample_rate=sample_rate)
    response = bright * np.exp(-13.8 * time / reverberation)  # highs die twice as fast
    response += 2 * dull * np.exp(-6.9 * time / reverberation)
    response *= np.minimum(1, time / (0.02 + 0.03 * reverberation))
    for _ in range(6):
        delay = rng.uniform(0.003, 0.02 + 0.02 * reverberation)
        at = num_samples(delay, sample_rate)
        if at < len(response):
            response[at] += 3 * rng.choice([-1, 1]) * np.exp(-delay / 0.02) * np.sqrt(len(time)) / 9
    reflected = convolved(samples, response / np.sqrt(np.square(response).sum()))
    return samples + np.sqrt(wet) * reflected


def from_afar(samples: np.ndarray, *, cutoff: float, sample_rate: int) -> np.ndarray:
    """What the air leaves of a distant sound: its highs are gone."""
    return filtered(samples, band(0, cutoff, order=1), sample_rate=sample_rate)


def at_level(samples: np.ndarray, *, decibels: float, fade: float, sample_rate: int) -> np.ndarray:
    """[N], float32: the loudest 50 ms have this level, and no sample is above -0.5 dB."""
    block = num_samples(0.05, sample_rate)
    padded = np.pad(samples, (0, -len(samples) % block)).reshape(-1, block)
    loudest = np.sqrt(np.square(padded).mean(axis=1).max())
    scaled = samples * (10 ** (decibels / 20) / max(loudest, 1e-12))
    scaled *= min(1.0, 0.944 / max(float(np.abs(scaled).max()), 1e-12))
    ramp = num_samples(fade, sample_rate)
    edge = np.linspace(0, 1, ramp, endpoint=False)
    scaled[:ramp] *= edge[: len(scaled)]
    scaled[-ramp:] *= edge[::-1][-len(scaled) :]
    return scaled.astype(np.float32)
