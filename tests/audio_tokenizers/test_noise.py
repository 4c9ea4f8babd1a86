"""Noise from a counter is Gaussian, white, and the same from wherever it is drawn."""

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from audio_tokenizers.noise import noise_samples

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=[0, 5_000_000])
def samples(request: pytest.FixtureRequest) -> Tensor:
    return noise_samples(first=request.param, count=200_000, device=CPU)


def test_noise_is_gaussian(samples: Tensor) -> None:
    assert samples.mean().abs() < 0.01
    assert samples.var().item() == pytest.approx(1, abs=0.01)
    assert (samples**3).mean().abs() < 0.03
    assert (samples**4).mean().item() == pytest.approx(3, abs=0.06)
    # The largest distance from the distribution function: 0.003 in one of 20 draws.
    assert kstest(samples.numpy(), "norm").statistic < 0.004


def test_noise_is_white(samples: Tensor) -> None:
    for distance in (1, 2, 3, 4, 16, 240, 256, 960, 1024):
        assert (samples[distance:] * samples[:-distance]).mean().abs() < 0.01, distance
        loudness = samples.square() - 1
        assert (loudness[distance:] * loudness[:-distance]).mean().abs() < 0.03, distance


def test_a_sample_depends_on_its_number_alone() -> None:
    whole = noise_samples(first=0, count=5_000, device=CPU)
    for first, count in ((0, 1), (1, 3), (17, 100), (999, 4_001)):
        part = noise_samples(first=first, count=count, device=CPU)
        assert torch.equal(part, whole[first : first + count])


def test_samples_of_large_numbers_are_noise_too() -> None:
    late = noise_samples(first=2**40, count=10_000, device=CPU)
    assert late.isfinite().all()
    assert late.std().item() == pytest.approx(1, abs=0.03)
