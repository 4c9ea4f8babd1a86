"""The building blocks have the spectra, the pitches and the envelopes that they promise."""

import numpy as np
import pytest

from corpora import signals
from corpora.effects.rooms import in_room
from corpora.signals import at_level

RATE = 16_000


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_filtering_by_convolution_equals_numpy() -> None:
    samples, response = generator().standard_normal(500), generator().standard_normal(70)
    expected = np.convolve(samples, response)[:500]
    np.testing.assert_allclose(signals.convolved(samples, response), expected, atol=1e-10)


def test_a_filter_with_gain_one_changes_nothing() -> None:
    samples = generator().standard_normal(777)
    same = signals.filtered(samples, np.ones_like, sample_rate=RATE)
    np.testing.assert_allclose(same, samples, atol=1e-12)


def test_noise_lies_within_its_band() -> None:
    sound = signals.noise(1.0, signals.band(1000, 2000, order=6), sample_rate=RATE, rng=generator())
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert power[800:2500].sum() / power.sum() > 0.97
    assert sound.std() == pytest.approx(1)


def test_a_tone_has_no_harmonic_above_the_nyquist_frequency() -> None:
    frequency = np.full(RATE, 3_000.0)
    spectrum = np.abs(np.fft.rfft(signals.tone(frequency, signals.saw(10), sample_rate=RATE)))
    assert set(np.flatnonzero(spectrum > 0.05 * spectrum.max())) == {3_000, 6_000}


def test_a_mode_rings_at_its_frequency_and_dies_in_its_time() -> None:
    ring = signals.modes(
        np.array([500.0]), np.array([0.1]), np.array([1.0]), sample_rate=RATE, rng=generator()
    )
    assert np.abs(np.fft.rfft(ring, RATE)).argmax() == pytest.approx(500, abs=2)
    early, late = np.abs(ring[:800]).max(), np.abs(ring[1600:2400]).max()
    assert late / early == pytest.approx(np.exp(-1), rel=0.05)


def test_a_glide_passes_through_its_points() -> None:
    curve = signals.glide([(0, 100), (1, 400)], 1.0, RATE)
    assert curve[0] == pytest.approx(100)
    assert curve[RATE // 2] == pytest.approx(200)  # half way in pitch, not in Hz


def test_what_reaches_over_the_ends_of_a_mix_is_lost() -> None:
    mix = np.zeros(4)
    signals.add(mix, np.ones(3), at=-1)
    signals.add(mix, np.ones(3), at=3)
    signals.add(mix, np.ones(3), at=9)
    assert mix.tolist() == [1, 1, 0, 1]


def test_a_room_takes_its_time_to_fall_silent() -> None:
    impulse = np.zeros(2 * RATE)
    impulse[0] = 1
    sound = in_room(impulse, reverberation=1.0, wet=0.5, sample_rate=RATE, rng=generator())
    assert np.square(sound[1:]).sum() == pytest.approx(0.5, rel=0.05)
    energy = np.cumsum(np.square(sound[::-1]))[::-1]  # Schroeder's integral
    decay = 10 * np.log10(energy[int(0.7 * RATE)] / energy[int(0.2 * RATE)])
    assert decay == pytest.approx(-30, abs=3)


def test_the_loudest_part_has_the_level_and_nothing_clips() -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)
    sound = at_level(tone, decibels=-20, fade=0.01, sample_rate=RATE)
    assert 20 * np.log10(np.sqrt(np.square(sound[RATE // 4 : RATE // 2]).mean())) == (
        pytest.approx(-20, abs=0.1)
    )
    assert np.abs(at_level(tone, decibels=0, fade=0.01, sample_rate=RATE)).max() < 0.95
    assert sound[0] == sound[-1] == 0
