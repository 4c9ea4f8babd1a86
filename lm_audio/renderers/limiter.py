"""A streaming true-peak limiter: keeps peaks, including those between samples, below a ceiling.

The gain falls ahead of a peak and recovers after it. Blocks have fixed positions, so the result is
bit-identical however samples are pushed.

Shapes: C channels, N samples, P parts of a block, about a millisecond each.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CEILING = 10 ** (-1.0 / 20)  # of true peaks
MARGIN = 10 ** (-0.3 / 20)  # for peaks that 4x oversampling misses
PARTS = 20  # of a block
ATTACK = 5  # parts by which the gain falls ahead of a peak
RELEASE = 60  # parts
REACH = 16  # samples on each side that the interpolation uses
PHASES = 4


class Limiter:
    """Limits a stream with a delay of a few milliseconds and constant memory.

    Args:
        ceiling: the highest true peak, 1 being full scale.
    """

    def __init__(self, sample_rate: int, *, num_channels: int, ceiling: float = CEILING) -> None:
        self._part = max(1, round(sample_rate / 1000))
        self._ceiling = ceiling * MARGIN
        self._samples = np.zeros((num_channels, REACH), np.float32)  # those before the block first
        self._recovering = 1.0  # the gain that the release has reached
        self._recent: NDArray[np.float64] | None = None  # gains [P] that the attack still averages
        self._edge = 1.0  # the gain at the end of the last block

    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [C, n >= 0], returns those that are final."""
        self._samples = np.concatenate([self._samples, samples.numpy()], axis=1)
        block, ahead = PARTS * self._part, (ATTACK + 2) * self._part
        limited = [self._samples[:, :0]]
        while self._samples.shape[1] >= REACH + block + ahead + REACH:
            limited.append(self._block(self._samples[:, : REACH + block + ahead + REACH]))
            self._samples = self._samples[:, block:]
        return torch.from_numpy(np.concatenate(limited, axis=1))

    def finish(self) -> Tensor:
        """Ends the stream; returns the samples that are left."""
        num_left = self._samples.shape[1] - REACH
        silence = torch.zeros(len(self._samples), (PARTS + ATTACK + 2) * self._part + REACH)
        left = torch.cat([self.push(silence), self.push(silence)], dim=1)
        return left[:, :num_left]

    def _block(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Limits the block that starts `REACH` samples into these."""
        peaks = true_peaks(samples).max(0).reshape(-1, self._part).max(1)  # [P + ATTACK + 2]
        needed = np.minimum(1.0, self._ceiling / np.maximum(peaks, 1e-9))
        coming = np.lib.stride_tricks.sliding_window_view(needed, ATTACK + 1).min(1)  # [P + 2]
        released = np.empty(PARTS + 1)
        rate = math.exp(-1 / RELEASE)
        gain = self._recovering
        for i, lowest in enumerate(coming[: PARTS + 1].tolist()):
            gain = released[i] = min(lowest, 1 - (1 - gain) * rate)
            if i == PARTS - 1:
                self._recovering = gain
        if self._recent is None:  # a peak at the very beginning finds the gain already low
            self._recent = np.full(ATTACK - 1, released[0])
        averaged = np.concatenate([self._recent, released])
        smooth = np.lib.stride_tricks.sliding_window_view(averaged, ATTACK).mean(1)  # [P + 1]
        self._recent = released[PARTS - ATTACK + 1 : PARTS].copy()
        # Straight lines between the edges of parts; both edges of a part are as low as it needs.
        edges = np.concatenate([[min(self._edge, smooth[0])], np.minimum(smooth[:-1], smooth[1:])])
        self._edge = edges[-1]
        ramp = np.arange(self._part) / self._part
        gains = (edges[:-1, None] + np.diff(edges)[:, None] * ramp).reshape(-1)
        block = samples[:, REACH : REACH + len(gains)]
        return (block * gains).astype(np.float32)


def true_peaks(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The highest of each sample and of three points behind it, [C, N] -> [C, N - 2 * REACH]."""
    around = np.lib.stride_tricks.sliding_window_view(samples, 2 * REACH, axis=1)
    between = np.abs(around[:, 1:] @ _INTERPOLATION)  # [C, N - 2 * REACH, PHASES - 1]
    here = np.abs(samples[:, REACH:-REACH])
    return np.maximum(here, between.max(2))


def _interpolation() -> NDArray[np.float64]:
    """Windowed sinc [2 * REACH, PHASES - 1]: the sound a quarter, half and three after a sample."""
    taps = np.arange(2 * REACH)[:, None] - (REACH - 1) - np.arange(1, PHASES) / PHASES
    window = np.cos(math.pi * taps / (2 * REACH + 1)) ** 2
    weights = np.sinc(taps) * window
    normalised: NDArray[np.float64] = weights / weights.sum(0)
    return normalised


_INTERPOLATION = _interpolation()
