"""Splits sound into bands and joins them: a pseudo quadrature mirror filter bank.

The prototype is a Kaiser window's low-pass, moved to each band by a cosine (Nguyen, IEEE
Transactions on Signal Processing 42, 1994). Aliases of neighbouring bands cancel, so joining
restores the sound up to the design's attenuation. Filters are centred: bands and sound are aligned.
Every second sample of odd bands changes its sign, so that no band's spectrum is mirrored.

Shapes: B batch, C channels, N samples, M bands, R rows (samples of a band), L taps.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from audio_tokenizers.acoustic.rave.layers import WindowStream, row_product, windows

ATTENUATION = 100.0  # dB
REACH = 13  # rows on each side; the prototype ends before


class PQMF(nn.Module):
    """Analysis and synthesis by one set of filters.

    The filters are saved with the weights: a model knows the bands that it was trained on.
    """

    filters: Tensor

    def __init__(self, num_bands: int, *, num_channels: int) -> None:
        super().__init__()
        self.num_bands, self.num_channels = num_bands, num_channels
        self.register_buffer("filters", band_filters(num_bands))  # [M, 2 * REACH * M]

    @property
    def analysis_delay(self) -> int:
        """Samples after a row's own that it depends on."""
        return (REACH - 1) * self.num_bands

    @property
    def synthesis_delay(self) -> int:
        """Samples before the end of the bands so far that are not final."""
        return REACH * self.num_bands

    def analyse(self, samples: Tensor) -> Tensor:
        """Samples [B, C, N], N a multiple of M -> rows [B, R, C * M]"""
        return self.analysis_stream().step(samples, last=True)

    def synthesise(self, rows: Tensor) -> Tensor:
        """Rows [B, R, C * M] -> samples [B, C, N]"""
        return self.synthesis_stream().step(rows, last=True)

    def analysis_stream(self) -> "AnalysisStream":
        return AnalysisStream(self)

    def synthesis_stream(self) -> "SynthesisStream":
        return SynthesisStream(self)

    def split_rows(self, window: Tensor) -> Tensor:
        """Rows of M samples [B, R + 2 * REACH - 1, M] -> rows of bands [B, R, M]"""
        reversed_filters = self.filters.flip(1).roll(1, 1)  # the first tap is 0
        return row_product(windows(window, kernel=2 * REACH), reversed_filters)

    def join_rows(self, window: Tensor) -> Tensor:
        """Rows of bands [B, R + 2 * REACH - 1, M] -> rows of M samples [B, R, M]"""
        M = self.num_bands
        row = torch.arange(2 * REACH, device=self.filters.device)[:, None]
        sample = torch.arange(M, device=self.filters.device)
        # From a band's sample in this row of the window to this sample of the result.
        distance = (REACH - 1 - row) * M + sample  # [2 * REACH, M]
        taps = self.filters[:, (REACH * M - distance) % (2 * REACH * M)]  # [band, row, sample]
        return row_product(windows(window, kernel=2 * REACH), M * taps.permute(2, 1, 0).flatten(1))


class AnalysisStream:
    """Samples [B, C, N] to rows [B, R, C * M]."""

    def __init__(self, pqmf: PQMF) -> None:
        self._pqmf = pqmf
        M = pqmf.num_bands
        self._window = WindowStream(
            pqmf.split_rows, out_width=M, reach=2 * REACH, left=REACH, right=REACH - 1
        )
        self._signs = Signs()
        self._rest: Tensor | None = None

    def step(self, samples: Tensor, *, last: bool) -> Tensor:
        M = self._pqmf.num_bands
        B, C, _ = samples.shape
        x = samples if self._rest is None else torch.cat([self._rest, samples], dim=2)
        whole = x.shape[2] // M * M
        self._rest = x[..., whole:].clone()
        rows = x[..., :whole].reshape(B * C, -1, M)
        bands = self._signs(self._window.step(rows, last=last))
        return bands.unflatten(0, (B, C)).transpose(1, 2).flatten(2)  # [B, R, C * M]


class SynthesisStream:
    """Rows [B, R, C * M] to samples [B, C, N]."""

    def __init__(self, pqmf: PQMF) -> None:
        self._pqmf = pqmf
        M = pqmf.num_bands
        self._window = WindowStream(
            pqmf.join_rows, out_width=M, reach=2 * REACH, left=REACH - 1, right=REACH
        )
        self._signs = Signs()

    def step(self, rows: Tensor, *, last: bool) -> Tensor:
        C = self._pqmf.num_channels
        B = rows.shape[0]
        bands = rows.unflatten(2, (C, -1)).transpose(1, 2).flatten(0, 1)  # [B * C, R, M]
        samples = self._window.step(self._signs(bands), last=last)
        return samples.reshape(B, C, -1)


class Signs:
    """Changes the sign of odd bands in odd rows, counted from the start of the stream."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, rows: Tensor) -> Tensor:
        """rows: [B, R, M]"""
        R, M = rows.shape[1:]
        odd_row = torch.arange(self._next, self._next + R, device=rows.device)[:, None] % 2
        odd_band = torch.arange(M, device=rows.device) % 2
        self._next += R
        return rows * (1 - 2 * odd_row * odd_band)


def band_filters(num_bands: int) -> Tensor:
    """Centred filters [M, 2 * REACH * M]; tap REACH * M is the centre."""
    M = num_bands
    distance = np.arange(2 * REACH * M) - REACH * M
    band = np.arange(M)[:, None]
    phase = (1 - 2 * (band % 2)) * (math.pi / 4)
    cosine = np.cos((2 * band + 1) * (math.pi / (2 * M)) * distance + phase)
    return torch.from_numpy((2 * prototype(M) * cosine).astype(np.float32))


@lru_cache(maxsize=8)
def prototype(num_bands: int) -> NDArray[np.float64]:
    """The low-pass filter [2 * REACH * M] whose squared response sums to 1 over the bands."""
    M, half = num_bands, REACH * num_bands - 1
    beta = 0.1102 * (ATTENUATION - 8.7)  # Kaiser's formula
    window, distance = np.kaiser(2 * half + 1, beta), np.arange(-half, half + 1)

    def design(cutoff: float) -> NDArray[np.float64]:
        h = window * np.sinc(cutoff * distance)
        shaped: NDArray[np.float64] = h / np.sqrt(np.square(h).sum() * 2 * M)
        return shaped

    def aliasing(cutoff: float) -> float:
        """The largest autocorrelation at a multiple of 2 M, which a perfect design has at 0."""
        h = design(cutoff)
        correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(h, 2 * len(h)))))
        return float(np.abs(correlation[2 * M : len(h) : 2 * M]).max())

    return np.append(0.0, design(_minimum(aliasing, 0.4 / M, 0.7 / M)))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a function: a grid, then a finer one around its best point, and so on."""
    best = low
    for _ in range(8):
        best = min(np.linspace(low, high, 33).tolist(), key=function)
        low, high = best - (high - low) / 16, best + (high - low) / 16
    return best
