"""Copies of training tokens, against counting by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from measures.copies import exact_copies, measure_copies, nearest_distances


def clips(number: int, length: int, seed: int, tokens: int = 4) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randint(tokens, (length,), generator=random) for _ in range(number)]


def test_exact_copies_are_those_that_a_search_finds() -> None:
    training, generated = clips(5, 30, seed=0), [*clips(4, 20, seed=1), torch.zeros(2).long()]
    length = 4
    known = {tuple(x) for clip in training for x in clip.unfold(0, length, 1).tolist()}
    expected = [
        np.mean([tuple(x) in known for x in clip.unfold(0, length, 1).tolist()])
        for clip in generated[:4]
    ]
    found = exact_copies(generated, training, length=length)
    assert found == pytest.approx(expected)
    assert 0 < sum(found) < 4


def test_the_nearest_window_is_that_of_most_equal_counts() -> None:
    training, generated = clips(3, 12, seed=0), clips(2, 12, seed=1)
    found = nearest_distances(generated, training, length=6, hop=3, vocab_size=4)

    def counts(clips: list[Tensor]) -> list[Tensor]:
        return [w.bincount(minlength=4) for c in clips for w in c.unfold(0, 6, 3)]

    known = counts(training)
    expected = [min(float((a - b).abs().sum()) / 2 / 6 for b in known) for a in counts(generated)]
    assert found.tolist() == pytest.approx(expected)


def test_a_copy_is_found_exactly_and_nearly_and_noise_is_not() -> None:
    training, held_out = clips(20, 50, seed=0, tokens=64), clips(20, 50, seed=1, tokens=64)
    copied, other = training[3], clips(1, 50, seed=2, tokens=64)[0]
    altered = copied.clone()
    altered[::7] = 63
    rows = measure_copies([copied, altered, other], training, held_out, rate=5.0, vocab_size=64)
    values = {row.metric: row.value for row in rows}
    assert values["windows of 5 s of generated clips that are in a training clip"] == (
        pytest.approx(1 / 3)
    )
    assert values["windows of 5 s of real held-out clips that are in a training clip"] == 0
    assert rows[-1].metric == "windows of generated clips that nearly are in a training clip"
    assert rows[-1].value == pytest.approx(2 / 3, abs=0.01)
    short = measure_copies([copied[:10]], training, held_out, rate=5.0, vocab_size=64)
    assert short[0].value is None
    assert short[0].note == "the clips are too short"
