"""Measures of reconstructions against torchmetrics and the packages they wrap."""

import math
import sys

import pytest
import torch

from lm_audio.data.synthetic import demo_clip
from measuring.signal_quality import mel_distance, pesq, si_sdr, stoi, visqol


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A sound with gaps, as speech has them, and the same with noise: [N] each, 16 kHz."""
    truth = torch.from_numpy(demo_clip(sample_rate=16_000)[:40_000])
    truth = truth * (0.05 + (torch.arange(40_000) // 2500 % 2))
    noise = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    return truth + 0.02 * noise, truth


def test_si_sdr_is_that_of_torchmetrics(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    answer, truth = torch.stack([pair[0], 3 * pair[0] - 0.1]), torch.stack([pair[1], pair[1]])
    reference = pytest.importorskip("torchmetrics.functional.audio")
    expected = reference.scale_invariant_signal_distortion_ratio(answer, truth)
    assert torch.allclose(si_sdr(answer, truth).float(), expected, atol=1e-3)


def test_mel_distance_of_a_scaled_sound_is_the_logarithm_of_the_scale() -> None:
    noise = torch.randn(2, 24_000, generator=torch.Generator().manual_seed(0))
    distance = mel_distance(2 * noise, noise, sample_rate=24_000)
    assert torch.allclose(distance, torch.full((2,), math.log(2)), atol=1e-3)
    assert mel_distance(noise, noise, sample_rate=24_000).max() == 0


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 8\] and \[1, 9\]; expected equal"):
        si_sdr(torch.zeros(1, 8), torch.zeros(1, 9))


def test_stoi_falls_with_noise_and_is_that_of_pystoi(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    pystoi = pytest.importorskip("pystoi")
    answer, truth = pair
    got = stoi(answer, truth, sample_rate=16_000)
    assert got == pytest.approx(pystoi.stoi(truth.numpy(), answer.numpy(), 16_000))
    assert got < stoi(truth, truth, sample_rate=16_000) == pytest.approx(1.0, abs=1e-6)


def test_pesq_falls_with_noise_and_is_that_of_its_package_at_16_khz(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    package = pytest.importorskip("pesq")
    answer, truth = pair
    got = pesq(answer, truth, sample_rate=16_000)
    assert got == pytest.approx(package.pesq(16_000, truth.numpy(), answer.numpy(), "wb"))
    best = pesq(truth, truth, sample_rate=16_000)
    assert got is not None
    assert best is not None
    assert got < best == pytest.approx(4.644, abs=1e-3)


def test_packages_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, measure in (("pesq", pesq), ("pystoi", stoi)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=rf"needs the package {name}; install it with: pip"):
            measure(torch.ones(9), torch.ones(9), sample_rate=16_000)


def test_pesq_of_silence_is_unknown() -> None:
    assert pesq(torch.zeros(16_000), torch.zeros(16_000), sample_rate=16_000) is None


def test_visqol_rates_an_equal_sound_best() -> None:
    pytest.importorskip("visqol")
    sound = torch.from_numpy(demo_clip(sample_rate=16_000))
    assert visqol(sound, sound, sample_rate=16_000, mode="speech") > 4.0


def test_visqol_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visqol", None)
    with pytest.raises(ValueError, match="pip install visqol-python"):
        visqol(torch.zeros(9), torch.zeros(9), sample_rate=16_000)
