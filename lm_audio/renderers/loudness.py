"""Normalises the loudness of rendered audio in a stream.

The gain changes slowly with a look-ahead of one second: it is chosen so that the returned audio and
the look-ahead together reach the target loudness after limiting. Hops have fixed positions, so the
result is bit-identical however samples are pushed. Loudness follows ITU-R BS.1770-4.

Shapes: C channels, N samples, P parts of a hop.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lm_audio.renderers.limiter import ATTACK, CEILING, MARGIN, RELEASE

TARGET = -16.0  # LUFS
SILENCE = -50.0  # LUFS; softer hops do not move the gain
LOOK_AHEAD = 10  # hops of about 100 ms
MEMORY = 100  # hops, over which loudness is integrated
GAINS = (-40.0, 40.0)  # dB
MOST_HOPS = MEMORY + LOOK_AHEAD + 1  # at once
RISE, FALL = 1.0, 3.0  # dB a hop
SILENT_RISE = 4.0  # dB a hop, where nothing is heard of it
DEEPEST = 24.0  # dB, the most that the limiter may reduce a peak
CORRECTION = 14.0  # dB around the gain that fits all known audio
STEADY_HOPS, STEADY = 5, 6.0  # steady audio: its last hops are within this many dB of the whole
PARTS = 100  # of a hop; about a millisecond each, as in the limiter
BLOCK = 4  # hops: the 400 ms of the standard
SHELF = 3.999843853973347  # dB, of the standard's first filter
TINY = 1e-12

Samples = NDArray[np.float32]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Hop:
    """Samples [C, N], the K-weighted power of each part and the peak around it, [P] each."""

    samples: Samples
    power: Array
    peaks: Array

    def power_at(self, gain: float, reduced: float = 0.0) -> tuple[float, float]:
        """The power after a gain in dB and the limiter, and how far the limiter then reduces."""
        powers, reduced = limited(self.power[None], self.peaks[None], gain, reduced)
        return float(powers[0]), reduced

    @property
    def is_silent(self) -> bool:
        return loudness(float(self.power.mean())) < SILENCE


class Leveller:
    """Normalises a stream to the target loudness in constant memory.

    Args:
        before: unchanged samples [C, N] before the stream, whose loudness becomes the target.
        overlap: the number of first samples that coincide with the end of `before`. They are not
            measured and get the first gain.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        num_channels: int,
        before: Tensor | None = None,
        overlap: int = 0,
    ) -> None:
        self._hop = PARTS * max(1, round(sample_rate / (10 * PARTS)))
        self._response = k_weighting(sample_rate, num_bins=self._hop + 1)
        # Sound that joins the user's own keeps its phase.
        self._cut = None if before is not None else subsonic_cut(sample_rate, self._hop + 1)
        self._last: Samples = np.zeros((num_channels, self._hop), np.float32)
        self._overlap = overlap
        self._waiting = self._last[:, :0]
        self._ahead: list[Hop] = []
        self._past: list[Hop] = []  # returned hops, before gain
        self._returned: list[float] = []  # their power after gain
        self._reduced = 0.0  # by the limiter at the end of the last hop: 1 - its gain
        self._gain: float | None = None  # dB, of the last hop
        self._target = TARGET
        self._first_ahead = LOOK_AHEAD + 1  # hops that decide the first gain
        if before is not None:
            self._set_target(before.numpy())

    def push(self, samples: Tensor) -> Tensor:
        """Takes the next samples [C, n >= 0], returns those that are final."""
        self._waiting = np.concatenate([self._waiting, samples.numpy()], axis=1)
        levelled = [self._last[:, :0]]
        while self._waiting.shape[1] >= self._overlap + self._hop:
            self._take(self._overlap + self._hop)
            if len(self._ahead) > LOOK_AHEAD:
                levelled.append(self._level())
        return torch.from_numpy(np.concatenate(levelled, axis=1))

    def finish(self) -> Tensor:
        """Ends the stream; returns the samples that are left."""
        rest = self._waiting.shape[1]
        num_left = rest + sum(hop.samples.shape[1] for hop in self._ahead)
        if rest:
            missing = self._overlap + self._hop - rest
            self._waiting = np.pad(self._waiting, ((0, 0), (0, missing)))
            self._take(rest + missing)
        levelled = [self._last[:, :0]]
        while self._ahead:
            levelled.append(self._level())
        return torch.from_numpy(np.concatenate(levelled, axis=1)[:, :num_left])

    def gain_of(self, loop: Tensor) -> float:
        """One gain in dB for samples [C, N] that repeat; 0 for silence."""
        times = math.ceil((BLOCK + 1) * self._hop / loop.shape[1]) + 1
        samples = np.tile(loop.numpy(), times)
        count = samples.shape[1] // self._hop
        hops = [
            self._measured(samples[:, i * self._hop : (i + 1) * self._hop]) for i in range(count)
        ][1:]  # the first one follows silence
        if all(hop.is_silent for hop in hops):
            return 0.0
        power, peaks = np.stack([h.power for h in hops]), np.stack([h.peaks for h in hops])
        most = min(GAINS[1], DEEPEST + 20 * math.log10(CEILING / max(float(peaks.max()), TINY)))
        nothing = np.zeros(0)
        return self._solve(nothing, power, peaks, 0.0, low=GAINS[0], high=max(GAINS[0], most))

    def _set_target(self, before: Samples) -> None:
        """Uses the loudness of these samples as the target, unless they are silent."""
        power = []
        for i in range(-min(MEMORY, before.shape[1] // self._hop), 0):
            stop = before.shape[1] + (i + 1) * self._hop
            power.append(float(self._measured(before[:, stop - self._hop : stop]).power.mean()))
        if power and (target := integrated(np.array(power))) > SILENCE:
            self._target = target
            # In steady audio, a wrong first gain is audible as a step.
            if abs(integrated(np.array(power[-STEADY_HOPS:])) - target) < STEADY:
                self._first_ahead = STEADY_HOPS

    def _take(self, num_samples: int) -> None:
        samples, self._waiting = np.split(self._waiting, [num_samples], axis=1)
        hop = self._measured(samples[:, self._overlap :])
        samples = np.concatenate([samples[:, : self._overlap], hop.samples], axis=1)
        self._ahead.append(Hop(samples=samples, power=hop.power, peaks=hop.peaks))
        self._overlap = 0

    def _measured(self, samples: Samples) -> Hop:
        """The next hop [C, N], filtered together with the one before."""
        spectrum = np.fft.rfft(np.concatenate([self._last, samples], axis=1))
        self._last = samples
        if self._cut is not None:
            spectrum *= self._cut
            samples = np.fft.irfft(spectrum)[:, self._hop :].astype(np.float32)
        weighted = np.fft.irfft(spectrum * self._response)[:, self._hop :]
        power = np.square(weighted).reshape(len(samples), PARTS, -1).mean(2).sum(0)
        peaks = np.abs(samples).reshape(len(samples), PARTS, -1).max(axis=(0, 2))
        around = np.pad(peaks.astype(np.float64), ATTACK)
        around = np.lib.stride_tricks.sliding_window_view(around, 2 * ATTACK + 1).max(1)
        return Hop(samples=samples, power=power, peaks=around)

    def _level(self) -> Samples:
        """The next hop at its gain, which it reaches in a straight line."""
        gain = self._next_gain()
        before = gain if self._gain is None else self._gain
        hop = self._ahead.pop(0)
        returned, self._reduced = hop.power_at(gain, self._reduced)
        self._returned = [*self._returned[1 - MEMORY :], returned]
        self._past = [*self._past[1 - MEMORY :], hop]
        self._gain = gain
        first, last = 10 ** (before / 20), 10 ** (gain / 20)
        length = hop.samples.shape[1]
        factors = first + (last - first) * (np.arange(length) + 1) / length
        return (hop.samples * factors).astype(np.float32)

    def _next_gain(self) -> float:
        """The gain of the next hop: that of all known audio, corrected for the past at other gains,
        with a limited slope."""
        coming = self._ahead if self._gain is not None else self._ahead[: self._first_ahead]
        if all(hop.is_silent for hop in coming):
            return 0.0 if self._gain is None else self._gain
        hops = [*self._past, *coming]
        power = np.stack([hop.power for hop in hops])
        peaks = np.stack([hop.peaks for hop in hops])
        new = slice(len(self._past), None)
        peak = float(peaks[new].max())
        most = min(GAINS[1], DEEPEST + 20 * math.log10(CEILING / max(peak, TINY)))
        even = self._solve(np.zeros(0), power, peaks, 0.0, low=GAINS[0], high=max(GAINS[0], most))
        low, high = even - CORRECTION, min(most, even + CORRECTION)
        returned = np.array(self._returned)
        gain = self._solve(
            returned, power[new], peaks[new], self._reduced, low=low, high=max(low, high)
        )
        if self._gain is None:
            return gain
        rise = SILENT_RISE if self._ahead[0].is_silent else RISE
        return min(max(gain, self._gain - FALL), self._gain + rise)

    def _solve(
        self,
        returned: Array,
        power: Array,
        peaks: Array,
        reduced: float,
        *,
        low: float,
        high: float,
    ) -> float:
        """The gain within limits that brings these and the returned hops to the target."""
        while high - low > 0.05:
            middle = (low + high) / 2
            known = np.concatenate([returned, limited(power, peaks, middle, reduced)[0]])
            low, high = (middle, high) if integrated(known) < self._target else (low, middle)
        return high


def even_gain(samples: Tensor, sample_rate: int) -> float:
    """The gain in dB that brings samples [C, N], played on and on, to the target loudness."""
    leveller = Leveller(sample_rate, num_channels=len(samples))
    return leveller.gain_of(samples)


def limited(power: Array, peaks: Array, gain: float, reduced: float) -> tuple[Array, float]:
    """The estimated mean power [hops] of parts [hops, P] after a gain in dB and the limiter.

    Args:
        reduced: 1 - the gain of the limiter before these hops; returned for their end as well.
    """
    if len(power) > MOST_HOPS:
        first, reduced = limited(power[:MOST_HOPS], peaks[:MOST_HOPS], gain, reduced)
        others, reduced = limited(power[MOST_HOPS:], peaks[MOST_HOPS:], gain, reduced)
        return np.concatenate([first, others]), reduced
    factor = 10 ** (gain / 20)
    needed = 1 - CEILING * MARGIN / factor / np.maximum(peaks, TINY).ravel()
    growth = _GROWTH[: len(needed)]
    # Each reduction fades by the limiter's release until a larger one comes.
    reductions = np.maximum.accumulate(np.maximum(needed * growth, reduced)) / growth
    kept = (1 - reductions).reshape(power.shape)
    powers = np.einsum("hp,hp,hp->h", power, kept, kept) * (factor * factor / PARTS)
    return powers, float(reductions[-1])


_GROWTH = np.exp(np.arange(1, MOST_HOPS * PARTS + 1) / RELEASE)


def integrated(power: Array) -> float:
    """The loudness in LUFS of hops with this weighted power [hops], gated twice."""
    sums = np.convolve(power, np.ones(min(BLOCK, len(power))), mode="valid")
    loud = sums[sums > BLOCK * power_of(-70.0)]
    if not len(loud):
        return -math.inf
    loud = loud[loud > loud.mean() / 10]
    return loudness(float(loud.mean()) / min(BLOCK, len(power)))


def loudness(power: float) -> float:
    """LUFS of a weighted power."""
    return -0.691 + 10 * math.log10(max(power, TINY))


def power_of(lufs: float) -> float:
    return 10 ** ((lufs + 0.691) / 10)


def subsonic_cut(sample_rate: int, num_bins: int) -> NDArray[np.complex128]:
    """The response of a high-pass at 22 Hz, from 0 to half the sample rate: [num_bins].

    Two second-order Butterworth sections: 28 dB at 10 Hz, less than 1 dB at 40 Hz. They decay
    within a hop.
    """
    return _high_pass(math.tan(math.pi * 22 / sample_rate), 2**-0.5, num_bins) ** 2


def k_weighting(sample_rate: int, *, num_bins: int) -> NDArray[np.complex128]:
    """The response of the standard's two filters from 0 to half the sample rate: [num_bins]."""
    delay = np.exp(-1j * math.pi * np.arange(num_bins) / (num_bins - 1))  # of one sample
    square = delay * delay
    k, q = math.tan(math.pi * 1681.974450955533 / sample_rate), 0.7071752369554196
    high, middle = 10 ** (SHELF / 20), 10 ** (SHELF * 0.4996667741545416 / 20)
    even, odd = high + k * k, middle * k / q
    shelf = even + odd + 2 * (k * k - high) * delay + (even - odd) * square
    shelf /= 1 + k * k + k / q + 2 * (k * k - 1) * delay + (1 + k * k - k / q) * square
    k, q = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    response: NDArray[np.complex128] = shelf * _high_pass(k, q, num_bins) * (1 + k * k + k / q)
    return response


def _high_pass(k: float, q: float, num_bins: int) -> NDArray[np.complex128]:
    """A second-order high-pass whose gain far above its corner is 1."""
    delay = np.exp(-1j * math.pi * np.arange(num_bins) / (num_bins - 1))  # of one sample
    poles = 1 + k * k + k / q + 2 * (k * k - 1) * delay + (1 + k * k - k / q) * delay**2
    response: NDArray[np.complex128] = (1 - delay) ** 2 / poles
    return response
