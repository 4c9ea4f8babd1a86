"""Batches hold every example once an epoch, waste little, and depend on their number alone."""

import pickle
from itertools import chain

import numpy as np
import pytest

from lm_audio.data.batches import Batches, Crop, seed_of

MIXED = np.random.default_rng(0).integers(20, 500, size=400)


def epoch(batches: Batches, first: int = 0) -> list[list[Crop]]:
    return [batches[number] for number in range(first, first + len(batches))]


def test_every_example_that_has_frames_comes_once_in_each_epoch() -> None:
    batches = Batches([5, 0, 30, 7, 12, 0, 9], longest=10, frames=20, seed=0)
    crops = [batches[number] for number in range(60)]
    flat = [crop.index for crop in chain.from_iterable(crops)]
    for first in range(0, len(flat) - 5, 5):
        assert sorted(flat[first : first + 5]) == [0, 2, 3, 4, 6]
    orders = {tuple(flat[first : first + 5]) for first in range(0, len(flat) - 5, 5)}
    assert len(orders) > 3, "the epochs have one order"


def test_no_batch_is_larger_than_it_may_be_counting_padding() -> None:
    batches = Batches(MIXED, longest=300, frames=1000, seed=0)
    for batch in epoch(batches):
        assert max(crop.length for crop in batch) * len(batch) <= 1000


def test_crops_of_like_length_go_together() -> None:
    batches = epoch(Batches(MIXED, longest=500, frames=2000, seed=0))
    real = sum(crop.length for crop in chain.from_iterable(batches))
    padded = sum(max(crop.length for crop in batch) * len(batch) for batch in batches)
    assert real / padded > 0.95
    mixed = Batches(MIXED, longest=500, frames=2000, seed=0)
    in_turn = [list(batch) for batch in np.array_split(MIXED, len(mixed))]
    assert MIXED.sum() / sum(max(b) * len(b) for b in in_turn) < 0.8, "nothing was to be won"


def test_a_batch_is_the_same_whoever_asks_and_whenever() -> None:
    batches = Batches(MIXED, longest=300, frames=1000, seed=3)
    expected = [batches[number] for number in range(400)]
    assert len(batches) * 2 < 400, "the epochs are too long to leave one"
    again = Batches(MIXED, longest=300, frames=1000, seed=3)
    for number in (390, 0, 200, 7, 391, 101):
        assert again[number] == expected[number]
    sent = pickle.loads(pickle.dumps(again))
    assert sent[250] == expected[250]
    assert Batches(MIXED, longest=300, frames=1000, seed=4)[0] != expected[0]


def test_crops_begin_anywhere_equally_often() -> None:
    batches = Batches([110] * 50, longest=100, frames=1000, seed=0)
    crops = list(chain.from_iterable(batches[number] for number in range(600)))
    assert {crop.length for crop in crops} == {100}
    counts = np.bincount([crop.start for crop in crops], minlength=11)
    assert len(counts) == 11
    expected = len(crops) / 11
    assert ((counts - expected) ** 2 / expected).sum() < 29.6  # chi-square, 10 degrees, p = 0.001


def test_short_examples_are_taken_whole() -> None:
    batch = Batches([7], longest=100, frames=100, seed=0)[0]
    assert batch == [Crop(index=0, start=0, stop=7)]


def test_seeds_of_batches_differ() -> None:
    assert len({seed_of(seed, number) for seed in range(10) for number in range(100)}) == 1000


def test_examples_without_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="All examples are empty"):
        Batches([0, 0], longest=10, frames=10, seed=0)


def test_a_batch_that_holds_no_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="A crop of 10 frames exceeds a batch of 9"):
        Batches([50, 3], longest=10, frames=9, seed=0)
    Batches([9, 3], longest=10, frames=9, seed=0)
