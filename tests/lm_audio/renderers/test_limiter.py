"""The limiter, its true peaks measured by resampling to eight times the rate."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from torch import Tensor

from lm_audio.renderers.limiter import CEILING, Limiter

RATE = 24_000


def limited(samples: Tensor, *, piece: int | None = None, ceiling: float = CEILING) -> Tensor:
    limiter = Limiter(RATE, num_channels=len(samples), ceiling=ceiling)
    pieces = samples.split(piece or samples.shape[1], dim=1)
    return torch.cat([*(limiter.push(one) for one in pieces), limiter.finish()], dim=1)


def true_peak(samples: Tensor) -> float:
    padded = np.pad(samples.double().numpy(), ((0, 0), (64, 64)))
    return float(np.abs(resample_poly(padded, 8, 1, axis=1)).max())


def sound(name: str) -> Tensor:
    rng = np.random.default_rng(0)
    n = np.arange(RATE)
    made = {
        "noise": 2 * rng.standard_normal(RATE),
        "low tone": 4 * np.sin(2 * np.pi * 60 * n / RATE),
        # Sampled at 45 degrees, where samples miss the peaks by 3 dB.
        "quarter of the rate": 2 * np.sin(np.pi / 2 * n + np.pi / 4),
        "clicks": 5.0 * (n % 3000 == 1000),
        "loud, then soft": np.where(n < RATE // 2, 3.0, 0.1) * np.sin(2 * np.pi * 440 * n / RATE),
    }
    return torch.from_numpy(made[name].astype(np.float32))[None]


@pytest.mark.parametrize(
    "name", ["noise", "low tone", "quarter of the rate", "clicks", "loud, then soft"]
)
def test_true_peaks_stay_below_the_ceiling(name: str) -> None:
    assert true_peak(limited(sound(name))) <= CEILING


def test_sound_below_the_ceiling_stays_as_it_is() -> None:
    samples = sound("low tone") / 8
    assert torch.equal(limited(samples), samples)


def test_soft_sound_after_a_peak_recovers() -> None:
    samples = sound("loud, then soft")
    found = limited(samples)
    late = slice(RATE * 9 // 10, None)
    torch.testing.assert_close(found[:, late], samples[:, late], rtol=0.02, atol=1e-4)


def test_a_peak_is_not_clipped() -> None:
    """A tone that is too loud keeps its shape: the gain hardly moves within a period."""
    samples = torch.from_numpy(np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).float()[None] * 3
    found = limited(samples)[:, RATE // 4 : RATE // 4 * 3]
    spectrum = torch.fft.rfft(found[0] * torch.hann_window(found.shape[1])).abs()
    peak = int(spectrum.argmax())
    harmonics = max(float(spectrum[k * peak - 3 : k * peak + 4].max()) for k in (2, 3, 5))
    assert harmonics < 0.01 * float(spectrum[peak])


@pytest.mark.parametrize("piece", [1, 100, 479, 5000])
def test_pieces_change_nothing(piece: int) -> None:
    samples = sound("noise")[:, : 2000 if piece == 1 else None]
    assert torch.equal(limited(samples, piece=piece), limited(samples))


@pytest.mark.parametrize("num_samples", [1, 2, 479, 480, 481, 1000])
def test_any_length_is_kept(num_samples: int) -> None:
    assert limited(sound("noise")[:, :num_samples]).shape == (1, num_samples)


def test_channels_share_their_gain() -> None:
    samples = torch.cat([sound("noise"), torch.full((1, RATE), 0.1)])
    ratio = limited(samples) / samples
    torch.testing.assert_close(ratio[0], ratio[1], rtol=1e-4, atol=0)


def test_nothing_in_nothing_out() -> None:
    assert limited(torch.zeros(2, 0)).shape == (2, 0)
