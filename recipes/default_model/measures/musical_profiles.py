"""Profiles of the pitch classes and the pulse of music, and choices between two of them.

A continuation is assigned to one of two prompts, its own or another piece's, whichever profile has
the higher Pearson correlation with the continuation's. Chance is one half.

Shapes: N samples, n pieces, D width.
"""

import torch
from torch import Tensor

SAMPLE_RATE = 16_000
_LOWEST, _HIGHEST = 100.0, 2000.0  # Hz; below, a semitone is narrower than two bins
_PITCH_FFT, _PITCH_HOP = 4096, 1024
_PULSE_FFT, _PULSE_HOP = 1024, 160  # 10 ms
_SMOOTHING = 5  # hops: onsets 30 ms apart still meet
_SHORTEST_BEAT, _LONGEST_BEAT = 0.1, 1.0  # seconds


def pitch_class_profile(samples: Tensor) -> Tensor:
    """The share of each pitch class in samples [N] at 16 kHz, from C on: [12].

    Uses roots of magnitudes, so that the loudest notes do not drown the others.
    """
    spectrum = _spectrum(samples, _PITCH_FFT, _PITCH_HOP).sqrt().mean(dim=1)
    frequencies = torch.arange(len(spectrum)) * SAMPLE_RATE / _PITCH_FFT
    in_range = (frequencies >= _LOWEST) & (frequencies <= _HIGHEST)
    pitches = 69 + 12 * (frequencies[in_range] / 440).log2()
    profile = torch.zeros(12).index_add(0, pitches.round().long() % 12, spectrum[in_range])
    return profile / profile.sum().clamp(min=1e-9)


def pulse_profile(samples: Tensor) -> Tensor:
    """The autocorrelation of onsets in samples [N] at 16 kHz, at lags of 0.1 to 1 s: [91].

    Onsets are the rise of the log spectrum; values are relative to the energy at lag zero.
    """
    spectrum = (1 + 100 * _spectrum(samples, _PULSE_FFT, _PULSE_HOP)).log()
    rise = spectrum.diff(dim=1).clamp(min=0).sum(dim=0)
    rise = torch.nn.functional.avg_pool1d(rise[None], _SMOOTHING, stride=1)[0]
    rise = rise - rise.mean()
    lags = range(
        round(_SHORTEST_BEAT * SAMPLE_RATE / _PULSE_HOP),
        round(_LONGEST_BEAT * SAMPLE_RATE / _PULSE_HOP) + 1,
    )
    if len(rise) <= lags[-1]:
        raise ValueError(
            f"Got {len(samples) / SAMPLE_RATE:.2f} s of music; a pulse needs at least "
            f"{_LONGEST_BEAT + 0.3:.1f} s."
        )
    found = torch.stack([(rise[lag:] * rise[:-lag]).mean() for lag in lags])
    return found / rise.square().mean().clamp(min=1e-9)


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation of each of [n, D] with each of [m, D]: [n, m]; 0 for constant ones."""
    a, b = (x.double() - x.double().mean(dim=1, keepdim=True) for x in (first, second))
    return torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T


def own_prompts(agreement: Tensor) -> Tensor:
    """How often each continuation agrees more with its own prompt than with another's: [n].

    Args:
        agreement: of continuations with prompts, [n, n]; those of one piece on the diagonal.
    """
    n = len(agreement)
    if agreement.shape != (n, n) or n < 2:
        raise ValueError(
            f"Got agreements of shape {list(agreement.shape)}; expected [n, n] with n >= 2."
        )
    own = agreement.diagonal()[:, None]
    chosen = (own > agreement).double() + 0.5 * (own == agreement).double()
    return (chosen.sum(dim=1) - 0.5) / (n - 1)  # without the diagonal, which ties


def _spectrum(samples: Tensor, length: int, hop: int) -> Tensor:
    """Magnitudes [bins, frames]; samples shorter than a window are padded with silence."""
    samples = torch.nn.functional.pad(samples.float(), (0, max(0, length - len(samples))))
    window = torch.hann_window(length)
    return torch.stft(samples, length, hop, window=window, center=False, return_complex=True).abs()
