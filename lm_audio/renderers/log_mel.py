"""Log-mel spectrograms, for autoencoders of spectrograms.

Frames are centred half a hop after their first sample, as vocoders expect, so that N samples give
N / hop frames. Bands are those of librosa: Slaney's scale, triangles of equal area.

Shapes: B batch, N samples, M mel bands, T frames, F bins.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_LINEAR_BELOW = 1000.0  # Hz: Slaney's scale is linear below and logarithmic above
_HZ_PER_MEL = 200 / 3
_LOG_STEP = float(np.log(6.4) / 27)
_FFT_HOPS = 6.4  # 1024 samples at a hop of 160


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """How a spectrogram is made.

    Args:
        floor: the smallest magnitude before the logarithm.
        base: of the logarithm.
    """

    sample_rate: int
    fft_length: int
    hop_length: int
    num_mels: int
    low: float
    high: float
    floor: float = 1e-5
    base: Literal["e", "10"] = "e"

    def __call__(self, samples: Tensor) -> Tensor:
        """The log-mel spectrogram [B, M, T] of samples [B, N]; an incomplete last hop is filled."""
        hop, n_fft = self.hop_length, self.fft_length
        samples = F.pad(samples, (0, -samples.shape[1] % hop))
        left = (n_fft - hop) // 2
        samples = _reflected(samples, left, n_fft - hop - left)
        window = torch.hann_window(n_fft, device=samples.device)
        frames = samples.unfold(1, n_fft, hop) * window  # [B, T, n_fft]
        magnitudes = torch.fft.rfft(frames).abs()
        bands = mel_bands(self).to(magnitudes)
        mel = (magnitudes @ bands.T).clamp(min=self.floor)
        return (mel.log10() if self.base == "10" else mel.log()).transpose(1, 2)


def usual_log_mel(*, sample_rate: int, hop_length: int, num_mels: int) -> LogMel:
    """AudioLDM's spectrograms at any rate: windows of 6.4 hops, and bands of all frequencies."""
    return LogMel(
        sample_rate=sample_rate,
        fft_length=round(_FFT_HOPS * hop_length),
        hop_length=hop_length,
        num_mels=num_mels,
        low=0,
        high=sample_rate / 2,
    )


def mel_bands(settings: LogMel) -> Tensor:
    """The weight of each bin in each band: [M, F]."""
    edges = _hertz(np.linspace(_mels(settings.low), _mels(settings.high), settings.num_mels + 2))
    bins = np.linspace(0, settings.sample_rate / 2, settings.fft_length // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    return torch.from_numpy(triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).float()


def _mels(hertz: float) -> float:
    if hertz < _LINEAR_BELOW:
        return hertz / _HZ_PER_MEL
    return _LINEAR_BELOW / _HZ_PER_MEL + float(np.log(hertz / _LINEAR_BELOW)) / _LOG_STEP


def _hertz(mels: np.ndarray) -> np.ndarray:
    bend = _LINEAR_BELOW / _HZ_PER_MEL
    curved = _LINEAR_BELOW * np.exp(_LOG_STEP * (mels - bend))
    return np.where(mels < bend, _HZ_PER_MEL * mels, curved)


def _reflected(x: Tensor, left: int, right: int) -> Tensor:
    """Reflects x [B, N] at its ends; an x too short for that is first filled with zeros."""
    missing = max(0, max(left, right) + 1 - x.shape[1])
    padded = F.pad(F.pad(x, (0, missing))[:, None], (left, right), "reflect")[:, 0]
    return padded[:, : padded.shape[1] - missing]
