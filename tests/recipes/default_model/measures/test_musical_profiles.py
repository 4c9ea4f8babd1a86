"""Profiles of notes and of pulse, on sounds whose notes and pulse are known."""

import math

import pytest
import torch
from torch import Tensor

from measures.musical_profiles import (
    SAMPLE_RATE,
    correlations,
    own_prompts,
    pitch_class_profile,
    pulse_profile,
)


def tone(pitch: int, seconds: float = 2.0) -> Tensor:
    time = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time).sin()


@pytest.mark.parametrize("pitch", [57, 60, 66, 71, 83])
def test_a_tone_is_its_pitch_class_in_every_octave(pitch: int) -> None:
    profile = pitch_class_profile(tone(pitch))
    assert profile.argmax() == pitch % 12
    assert profile.sum() == pytest.approx(1, abs=1e-5)
    octave = pitch_class_profile(tone(pitch + 12))
    assert octave.argmax() == pitch % 12


@pytest.mark.parametrize("beat", [0.55, 0.7, 0.85])
def test_clicks_come_back_after_a_beat(beat: float) -> None:
    samples = torch.zeros(4 * SAMPLE_RATE)
    for start in torch.arange(0.1, 3.9, beat):
        samples[int(start * SAMPLE_RATE) :][:200] = 0.5
    profile = pulse_profile(samples)
    assert profile.shape == (91,)
    lags = 0.1 + 0.01 * torch.arange(91)
    assert float(lags[profile.argmax()]) == pytest.approx(beat, abs=0.011)


def test_too_short_music_has_no_pulse() -> None:
    with pytest.raises(ValueError, match=r"Got 1.00 s of music; a pulse needs at least 1.3 s"):
        pulse_profile(torch.zeros(SAMPLE_RATE))


def test_correlations_are_those_of_pearson() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(n, 12, generator=random) for n in (3, 4))
    expected = torch.corrcoef(torch.cat([first, second]).double())[:3, 3:]
    torch.testing.assert_close(correlations(first, second), expected)
    assert not correlations(torch.ones(1, 12), second).any()


def test_own_prompts_are_counted_against_each_other_one() -> None:
    agreement = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.6], [0.7, 0.1, 0.7]])
    assert own_prompts(agreement).tolist() == [1.0, 0.0, 0.75]
    with pytest.raises(ValueError, match=r"Got agreements of shape \[1, 1\]; expected \[n, n\]"):
        own_prompts(torch.ones(1, 1))
