"""The filter bank restores sound, against a naive one, and its two directions are adjoint."""

import math

import pytest
import torch
from torch import Tensor

from audio_tokenizers.acoustic.rave.pqmf import PQMF, REACH, band_filters, prototype


def snr(wanted: Tensor, found: Tensor) -> float:
    return 10 * math.log10(float(wanted.square().sum() / (wanted - found).square().sum()))


@pytest.mark.parametrize("num_bands", [4, 8, 16])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_sound_is_restored_to_60_db(num_bands: int, num_channels: int) -> None:
    pqmf = PQMF(num_bands, num_channels=num_channels)
    torch.manual_seed(0)
    samples = torch.randn(2, num_channels, 300 * num_bands)
    bands = pqmf.analyse(samples)
    assert bands.shape == (2, 300, num_channels * num_bands)
    inside = slice(2 * REACH * num_bands, -2 * REACH * num_bands)
    assert snr(samples[..., inside], pqmf.synthesise(bands)[..., inside]) >= 60


def test_analysis_and_synthesis_equal_naive_sums() -> None:
    M, R = 4, 40
    pqmf, filters = PQMF(M, num_channels=1), band_filters(M).double()
    torch.manual_seed(0)
    samples, centre = torch.randn(M * R), REACH * M
    sign = [[-1 if row % 2 and band % 2 else 1 for band in range(M)] for row in range(R)]
    bands = torch.zeros(R, M, dtype=torch.float64)
    sound = torch.zeros(M * R, dtype=torch.float64)
    found = pqmf.analyse(samples[None, None])[0]
    for row in range(R):
        for band in range(M):
            for tap, weight in enumerate(filters[band]):
                place = M * row - (tap - centre)
                if 0 <= place < M * R:
                    bands[row, band] += sign[row][band] * weight * samples[place]
                # The other direction is the same filter, reversed in time.
                place = M * row + (centre - tap)
                if 0 <= place < M * R:
                    sound[place] += M * sign[row][band] * weight * found[row, band]
    torch.testing.assert_close(found.double(), bands, rtol=0, atol=1e-5)
    joined = pqmf.synthesise(found[None])[0, 0]
    torch.testing.assert_close(joined.double(), sound, rtol=0, atol=1e-5)


def test_the_directions_are_adjoint() -> None:
    M, R = 16, 60
    pqmf = PQMF(M, num_channels=2)
    torch.manual_seed(0)
    samples, bands = torch.randn(1, 2, M * R), torch.randn(1, R, 2 * M)
    there = float((pqmf.analyse(samples).double() * bands).sum())
    back = float((pqmf.synthesise(bands).double() * samples).sum()) / M
    assert there == pytest.approx(back, rel=1e-5)


def test_the_prototype_attenuates_by_100_db_from_the_next_band_on() -> None:
    for M in (8, 16):
        response = torch.fft.rfft(torch.from_numpy(prototype(M)), 2**15).abs()
        beyond = response[2**15 // (2 * M) :]
        assert 20 * math.log10(float(beyond.max() / response[0])) < -100


def test_each_band_holds_its_own_frequencies_with_low_ones_first() -> None:
    """The spectrum of no band is mirrored: higher sounds are higher within every band."""
    M, R = 8, 400
    pqmf = PQMF(M, num_channels=1)
    time = torch.arange(M * R, dtype=torch.float64)
    for band in range(M):
        peaks = []
        for share in (0.3, 0.7):
            frequency = (band + share) / (2 * M)  # cycles per sample
            tone = torch.sin(2 * math.pi * frequency * time).float()
            levels = pqmf.analyse(tone[None, None])[0]
            assert int(levels.square().sum(0).argmax()) == band
            peaks.append(int(torch.fft.rfft(levels[:, band]).abs().argmax()) / R)
        assert peaks[0] == pytest.approx(0.15, abs=0.02)
        assert peaks[1] == pytest.approx(0.35, abs=0.02)
