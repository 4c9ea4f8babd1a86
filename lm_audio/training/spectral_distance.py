"""Distances between spectrograms, and the energy score that makes them fair to noise.

A distance alone teaches a generator to leave noise out: for a sound that cannot be predicted the
safest answer is its median. The energy score (Gritsenko et al., arXiv 2008.01160) subtracts half
the distance between two of the generator's own answers. It is a proper score: smallest when the
answers vary as the sounds themselves do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.spectra import mel_filterbank, windows_of_hops

OVERLAP = 4


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    sample_rate: int
    window_lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    num_mels: int = 64
    mel_weight: float = 2.0
    phase_weight: float = 8.0


def spectra(samples: Tensor, config: SpectralConfig) -> list[tuple[float, Tensor]]:
    """Weighted features of samples [B, N] at several resolutions, windows a quarter of a length
    apart: log-magnitudes, log-mels, and the complex spectrum with its magnitudes' roots."""
    if samples.shape[1] < max(config.window_lengths):
        raise ValueError(
            f"Got segments of {samples.shape[1]} samples, shorter than the longest window, "
            f"{max(config.window_lengths)}; take longer segments."
        )
    features, scales = [], len(config.window_lengths)
    for length in config.window_lengths:
        real, imaginary = spectrum(samples, length)  # [B, frames, bins] each
        magnitude = (real.square() + imaginary.square() + 1e-9).sqrt()
        features.append((1 / scales, (magnitude + 1e-3).log()))
        bank = _filterbank(config.num_mels, length // 2, config.sample_rate)
        mels = F.linear(magnitude[..., :-1], bank.to(samples.device))
        features.append((config.mel_weight / scales, (mels + 1e-3).log()))
        root = (magnitude + 1e-3).rsqrt() * _low_first(length, config.sample_rate).to(
            samples.device
        )
        features.append((config.phase_weight / scales, real * root))
        features.append((config.phase_weight / scales, imaginary * root))
    return features


def distance(a: list[tuple[float, Tensor]], b: list[tuple[float, Tensor]]) -> Tensor:
    """The weighted mean absolute difference of two waveforms' features: a scalar."""
    terms = [weight * F.l1_loss(p, q) for (weight, p), (_, q) in zip(a, b, strict=True)]
    return torch.stack(terms).sum()


def energy_score(samples: Tensor, answers: Sequence[Tensor], config: SpectralConfig) -> Tensor:
    """The score of waveforms that a generator answers independently with, all [B, N]: a scalar.

    That of a single answer is its distance.
    """
    truth = spectra(samples, config)
    heard = [spectra(answer, config) for answer in answers]
    score = torch.stack([distance(answer, truth) for answer in heard]).mean()
    if len(heard) > 1:
        apart = [distance(first, second) for first, second in combinations(heard, 2)]
        score = score - 0.5 * torch.stack(apart).mean()
    return score


def spectrum(samples: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """[B, N] -> real and imaginary [B, frames, length // 2 + 1], of about unit level for noise."""
    hop = length // OVERLAP
    blocks = samples[:, : samples.shape[1] // hop * hop].unflatten(1, (-1, hop))
    windows = windows_of_hops(blocks, overlap=OVERLAP)
    window = torch.hann_window(length, device=samples.device)
    spectrum = torch.fft.rfft(windows * (window * (4 / length**0.5)))
    return spectrum.real.contiguous(), spectrum.imag.contiguous()


@lru_cache
def _low_first(length: int, sample_rate: int) -> Tensor:
    """Weights of bins [bins]: phases can be known, and heard, below a few kHz."""
    frequencies = torch.arange(length // 2 + 1) * sample_rate / length
    return 1 / (1 + (frequencies / 2000) ** 2)


@lru_cache
def _filterbank(num_mels: int, num_bins: int, sample_rate: int) -> Tensor:
    return mel_filterbank(num_mels=num_mels, num_bins=num_bins, sample_rate=sample_rate)
