"""Levels of complete audio, against pyloudnorm and a closed form."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch

from lm_audio.renderers.levels import measure_levels

RATE = 24_000


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("seconds", [0.5, 3.3])
def test_loudness_is_that_of_pyloudnorm(channels: int, seconds: float) -> None:
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((channels, round(seconds * RATE)))
    samples *= 0.05 * (1 + np.sin(np.arange(samples.shape[1]) / 9000))  # louder and softer
    meter = pyloudnorm.Meter(RATE, filter_class="DeMan")
    expected = meter.integrated_loudness(samples.T)
    found = measure_levels(torch.from_numpy(samples).float(), RATE)
    assert found.loudness == pytest.approx(expected, abs=0.2)


def test_the_true_peak_lies_between_samples() -> None:
    # A quarter of the sample rate, sampled halfway between its zeros and peaks.
    phase = math.pi / 2 * torch.arange(3 * RATE).double() + math.pi / 4
    samples = 0.5 * phase.sin().float()[None]
    assert float(samples.abs().max()) == pytest.approx(0.5 * math.sqrt(0.5), abs=1e-3)
    found = measure_levels(samples, RATE).true_peak
    assert found == pytest.approx(20 * math.log10(0.5), abs=0.1)


def test_silence_and_very_short_audio_have_levels() -> None:
    silent = measure_levels(torch.zeros(1, RATE), RATE)
    assert (silent.loudness, silent.true_peak) == (-math.inf, -math.inf)
    assert measure_levels(0.5 * torch.ones(1, 5), RATE).true_peak == pytest.approx(-6, abs=1.5)
