"""Batches of waveforms, and the low-discrepancy sequence of their noise levels."""

import numpy as np
import pytest
import torch

from lm_audio.data.corpus import SegmentSampler
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.training.diffusion_batches import NUM_BINS
from lm_audio.training.low_discrepancy import low_discrepancy
from lm_audio.training.waveform_batches import WaveformBatches


def batches(*, num_channels: int = 2, batch_size: int = 4, seed: int = 0) -> WaveformBatches:
    clips = synthetic_clips(num_clips=3, seconds=0.5, sample_rate=8_000, seed=1)
    sampler = SegmentSampler(clips, length=256, batch_size=batch_size, seed=seed)
    return WaveformBatches(sampler, num_channels=num_channels, seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("k", [0, 1, 3, 6])
def test_each_aligned_block_has_a_number_in_each_part(seed: int, k: int) -> None:
    count = 2**k
    for block in (0, 1, 5, 1000):
        found = low_discrepancy(block * count, count, seed=seed)
        assert found.min() >= 0
        assert found.max() < 1
        assert sorted((found * count).astype(int)) == list(range(count))


def test_the_sequence_is_that_of_mirrored_digits_up_to_a_shift() -> None:
    """A naive version: the binary digits of the index, mirrored, with some of them flipped."""
    numbers = low_discrepancy(0, 64, seed=7)
    flipped = int(numbers[0] * 2**32)
    for index, number in enumerate(numbers):
        digits = int(f"{index:032b}"[::-1], 2) ^ flipped
        assert number == digits / 2**32


def test_the_sequence_is_counted_and_depends_on_the_seed() -> None:
    whole = low_discrepancy(0, 40, seed=3)
    parts = [low_discrepancy(first, 8, seed=3) for first in range(0, 40, 8)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.isclose(low_discrepancy(0, 40, seed=4), whole).any()
    assert len(set(whole)) == 40


def test_a_batch_is_a_function_of_its_number() -> None:
    one, other = batches(), batches()
    other.batch(3)  # out of order
    for field in ("latents", "noise", "shares", "alpha", "sigma", "times"):
        assert torch.equal(getattr(one.batch(5), field), getattr(other.batch(5), field))
        assert not torch.equal(getattr(one.batch(5), field), getattr(one.batch(6), field))
        other_seed = getattr(batches(seed=1).batch(5), field)
        assert not torch.equal(getattr(one.batch(5), field), other_seed)


def test_processes_share_a_batch() -> None:
    whole, parts = batches().batch(2), [batches().batch(2, part=i, num_parts=2) for i in (0, 1)]
    for field in ("latents", "noise", "shares", "times"):
        joined = torch.stack([getattr(part, field) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(joined, getattr(whole, field))


def test_levels_are_even_and_lie_on_the_circle() -> None:
    made = [batches(batch_size=8).batch(i) for i in range(4)]
    for one in made:
        assert one.counts(NUM_BINS).tolist() == [2 * 2 * 256] * 4
        torch.testing.assert_close(one.alpha**2 + one.sigma**2, torch.ones(8))
        torch.testing.assert_close(one.times, one.shares.float())
        torch.testing.assert_close(one.alpha, torch.cos(one.times * torch.pi / 2))
    places = torch.cat([one.shares for one in made]).sort().values
    assert float((places - (torch.arange(32) + 0.5) / 32).abs().max()) < 1 / 32


def test_all_channels_have_the_same_sound_and_their_own_noise() -> None:
    one = batches().batch(0)
    assert one.latents.shape == one.noise.shape == (4, 2, 256)
    assert torch.equal(one.latents[:, 0], one.latents[:, 1])
    assert not torch.equal(one.noise[:, 0], one.noise[:, 1])
    assert one.judged.all()
