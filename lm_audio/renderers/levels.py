"""Measures the loudness and the true peak of complete audio.

Shapes: C channels, N samples.
"""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from lm_audio.renderers.limiter import REACH, true_peaks
from lm_audio.renderers.loudness import integrated, k_weighting


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Loudness in LUFS (ITU-R BS.1770-4) and true peak in dBTP; -inf for silence."""

    loudness: float
    true_peak: float


def measure_levels(samples: Tensor, sample_rate: int) -> Levels:
    """The levels of samples [C, N]; audio shorter than 400 ms counts as one block."""
    return Levels(
        loudness=_loudness(samples.numpy(), sample_rate),
        true_peak=_true_peak(samples.numpy(), sample_rate),
    )


def _loudness(samples: np.ndarray, sample_rate: int) -> float:
    hop = max(1, round(sample_rate / 10))
    response = k_weighting(sample_rate, num_bins=hop + 1)
    num_hops = max(1, samples.shape[1] // hop)
    padded = np.pad(samples, ((0, 0), (hop, max(0, hop - samples.shape[1]))))
    power = np.zeros(num_hops)
    for i in range(num_hops):  # each is filtered together with the one before
        weighted = np.fft.irfft(np.fft.rfft(padded[:, i * hop : (i + 2) * hop]) * response)
        power[i] = np.square(weighted[:, hop:]).mean(1).sum()
    return integrated(power)


def _true_peak(samples: np.ndarray, sample_rate: int) -> float:
    padded = np.pad(samples, ((0, 0), (REACH, REACH)))
    peak = 0.0
    for start in range(0, samples.shape[1], sample_rate):  # bounds the memory of the windows
        block = padded[:, start : start + sample_rate + 2 * REACH]
        peak = max(peak, float(true_peaks(block).max()))
    return 20 * math.log10(peak) if peak > 0 else -math.inf
