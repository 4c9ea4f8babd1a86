"""Sample rate conversion of whole waveforms and of streams, with exact lengths.

N samples at `from_rate` become round(N * to_rate / from_rate) samples, halves rounded up, and at
least one. Equal rates return the samples untouched.
"""

from typing import TYPE_CHECKING

import numpy as np
import soxr  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from torch import Tensor

# torch is imported where it runs: the header of an audio file is read without it.

MIN_SAMPLE_RATE = 1_000
MAX_SAMPLE_RATE = 768_000


def resample(samples: "Tensor", from_rate: int, to_rate: int) -> "Tensor":
    """Resamples the last axis of `samples` [..., N], float32; the result is [..., N'], float32."""
    import torch

    check_sample_rate(from_rate)
    check_sample_rate(to_rate)
    if from_rate == to_rate:
        return samples
    *rows, num_samples = samples.shape
    channels = samples.detach().to("cpu", torch.float32).reshape(-1, num_samples)
    frames = np.ascontiguousarray(channels.numpy().T)  # [N, C]
    resampled = torch.from_numpy(soxr.resample(frames, from_rate, to_rate).T)  # [C, ~N']
    exact = _fit(resampled, resampled_length(num_samples, from_rate, to_rate))
    return exact.reshape(*rows, exact.shape[-1]).to(samples.device)


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """The length of `num_samples` samples after resampling."""
    if num_samples == 0:
        return 0
    return max(1, (2 * num_samples * to_rate + from_rate) // (2 * from_rate))


def check_sample_rate(sample_rate: int) -> None:
    """Raises ValueError for an implausible sample rate."""
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(
            f"A sample rate of {sample_rate} Hz is out of range; "
            f"use {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz."
        )


class StreamResampler:
    """Resamples a waveform piece by piece; the pieces concatenate to what `resample` returns."""

    def __init__(self, from_rate: int, to_rate: int, *, num_channels: int) -> None:
        check_sample_rate(from_rate)
        check_sample_rate(to_rate)
        self._rates = (from_rate, to_rate)
        self._num_channels = num_channels
        self._num_in = 0
        self._num_out = 0
        self._stream = (
            None
            if from_rate == to_rate
            else soxr.ResampleStream(from_rate, to_rate, num_channels, dtype="float32")
        )

    def push(self, samples: "Tensor") -> "Tensor":
        """Takes the next samples [C, N], returns final resampled ones [C, N' >= 0]."""
        self._num_in += samples.shape[-1]
        return samples if self._stream is None else self._advance(samples, last=False)

    def finish(self) -> "Tensor":
        """Ends the waveform and returns the remaining samples [C, N']."""
        import torch

        rest = torch.zeros(self._num_channels, 0)
        if self._stream is None:
            return rest
        missing = resampled_length(self._num_in, *self._rates) - self._num_out
        return _fit(self._advance(rest, last=True), missing)

    def _advance(self, samples: "Tensor", *, last: bool) -> "Tensor":
        import torch

        assert self._stream is not None
        frames = np.ascontiguousarray(samples.numpy().T, dtype=np.float32)  # [N, C]
        resampled = self._stream.resample_chunk(frames, last=last)
        self._num_out += len(resampled)
        return torch.from_numpy(np.ascontiguousarray(resampled.T))  # [C, N']


def _fit(samples: "Tensor", num_samples: int) -> "Tensor":
    """Cuts or zero-pads [C, N] to `num_samples`; soxr's own rounding may be one sample off."""
    import torch

    missing = num_samples - samples.shape[-1]
    return torch.nn.functional.pad(samples, (0, missing))  # a negative pad cuts
