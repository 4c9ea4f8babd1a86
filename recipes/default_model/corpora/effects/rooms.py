"""The place around a sound: walls that reflect, air that dulls."""

import numpy as np

from corpora.signals import band, convolved, filtered, num_samples, times


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
    response += dull * np.exp(-6.9 * time / reverberation)
    response *= np.minimum(1, time / (0.02 + 0.03 * reverberation))
    for _ in range(6):
        delay = rng.uniform(0.003, 0.02 + 0.02 * reverberation)
        at = num_samples(delay, sample_rate)
        if at < len(response):
            response[at] += rng.choice([-1, 1]) * np.exp(-delay / 0.02) * np.sqrt(len(time)) / 8
    reflected = convolved(samples, response / np.sqrt(np.square(response).sum()))
    return samples + np.sqrt(wet) * reflected


def from_afar(samples: np.ndarray, *, cutoff: float, sample_rate: int) -> np.ndarray:
    """What the air leaves of a distant sound: its highs are gone."""
    return filtered(samples, band(0, cutoff, order=1), sample_rate=sample_rate)
