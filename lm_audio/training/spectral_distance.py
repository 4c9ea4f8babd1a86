"""Distances between spectrograms, and the energy score that makes them fair to noise.

A distance alone teaches a generator to leave noise out: for a sound that cannot be predicted the
safest answer is its median. The energy score (Gritsenko et al., arXiv 2008.01160) subtracts half
the distance between two of the generator's own answers. It is a proper score: smallest when the
answers vary as the sounds themselves do.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.spectra import mel_filterbank, windows_of_hops

OVERLAP = 4


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    sample_rate: int
    window_lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_window_lengths: tuple[int, ...] = (512, 1024, 2048)
    num_mels: int = 80
    mel_weight: float = 2.0
    magnitude_weight: float = 0.2


def spectra(samples: Tensor, config: SpectralConfig) -> list[tuple[float, Tensor]]:
    """Weighted features of samples [B, N]: log-magnitudes, magnitudes and log-mels at several
    resolutions, windows a quarter of a length apart."""
    features, scales = [], len(config.window_lengths)
    for length in config.window_lengths:
        magnitude = _magnitude(samples, length)  # [B, frames, bins]
        features.append((1 / scales, (magnitude + 1e-3).log()))
        features.append((config.magnitude_weight / scales, magnitude))
        if length in config.mel_window_lengths:
            bank = _filterbank(config.num_mels, length // 2, config.sample_rate)
            mels = F.linear(magnitude[..., :-1], bank.to(samples.device))
            weight = config.mel_weight / len(config.mel_window_lengths)
            features.append((weight, (mels + 1e-3).log()))
    return features


def distance(a: list[tuple[float, Tensor]], b: list[tuple[float, Tensor]]) -> Tensor:
    """The weighted mean absolute difference of two waveforms' features: a scalar."""
    terms = [weight * (p - q).abs().mean() for (weight, p), (_, q) in zip(a, b, strict=True)]
    return torch.stack(terms).sum()


def energy_score(samples: Tensor, answers: list[Tensor], config: SpectralConfig) -> Tensor:
    """The score of waveforms that a generator answers independently with, one or two: all [B, N].

    With one it is the distance, right for a generator that knows a single answer.
    """
    truth = spectra(samples, config)
    given = [spectra(answer, config) for answer in answers]
    score = torch.stack([distance(answer, truth) for answer in given]).mean()
    if len(given) == 1:
        return score
    first, second = given
    return score - 0.5 * distance(first, second)


def _magnitude(samples: Tensor, length: int) -> Tensor:
    """[B, N] -> [B, frames, length // 2 + 1], of unit level for a full-scale tone."""
    hop = length // OVERLAP
    blocks = samples[:, : samples.shape[1] // hop * hop].unflatten(1, (-1, hop))
    windows = windows_of_hops(blocks, overlap=OVERLAP)
    window = torch.hann_window(length, device=samples.device)
    spectrum = torch.fft.rfft(windows * (window * (4 / length**0.5)))
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


@lru_cache
def _filterbank(num_mels: int, num_bins: int, sample_rate: int) -> Tensor:
    return mel_filterbank(num_mels=num_mels, num_bins=num_bins, sample_rate=sample_rate)
