"""Made-up sounds have the pitch, the kinds and the level they claim."""

import numpy as np
import pytest

from lm_audio.data.synthetic import chirp, demo_clip, pluck, rain, synthetic_clips


@pytest.mark.parametrize("frequency", [110.0, 440.0])
def test_a_pluck_has_its_frequency(frequency: float) -> None:
    sound = pluck(frequency, seconds=1.0, sample_rate=24_000, rng=np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound))
    assert spectrum.argmax() == pytest.approx(frequency, abs=2)
    assert np.abs(sound).max() <= 1.0


def test_a_chirp_stays_in_its_band_and_rain_does_not() -> None:
    rng = np.random.default_rng(0)
    low, high = 1_000, 6_000
    shares = []
    for sound in (chirp(1.0, sample_rate=24_000, rng=rng), rain(1.0, sample_rate=24_000, rng=rng)):
        power = np.abs(np.fft.rfft(sound)) ** 2
        shares.append(power[low:high].sum() / power.sum())
    assert shares[0] > 0.99
    assert shares[1] < 0.7


def test_the_demo_clip_is_the_same_each_time() -> None:
    first, second = demo_clip(sample_rate=24_000), demo_clip(sample_rate=24_000)
    assert np.array_equal(first, second)
    assert first.shape == (96_000,)
    assert np.abs(first).max() == pytest.approx(0.5)


def test_synthetic_clips_cover_all_kinds_and_differ() -> None:
    clips = synthetic_clips(num_clips=6, seconds=1.0, sample_rate=8_000, seed=1)
    assert [clip.kind for clip in clips] == ["pluck", "chirp", "rain"] * 2
    assert all(clip.samples.shape == (8_000,) and clip.samples.any() for clip in clips)
    assert not np.array_equal(clips[0].samples, clips[3].samples)
