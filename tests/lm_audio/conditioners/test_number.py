"""Numbers within a range."""

import math

import pytest
import torch

from lm_audio.conditioners.number import NumberConditioner


def test_a_number_becomes_its_waves_through_the_projection() -> None:
    conditioner = NumberConditioner(4, 1.0, 11.0, num_waves=3)

    condition = conditioner([3.5, None])

    turn = math.pi * 0.25
    angles = [turn, 2 * turn, 4 * turn]
    waves = torch.tensor([*map(math.cos, angles), *map(math.sin, angles)])
    expected = conditioner.projection.weight @ waves + conditioner.projection.bias
    torch.testing.assert_close(condition.embeddings[0, 0], expected, rtol=0, atol=1e-6)
    assert torch.equal(condition.embeddings[1], conditioner.null.embedding)
    assert condition.mask.tolist() == [[True], [True]]


def test_no_two_numbers_look_alike_the_ends_included() -> None:
    conditioner = NumberConditioner(8, 0.0, 30.0)

    numbers = [i / 20 for i in range(601)]
    rows = conditioner(numbers).embeddings[:, 0]

    distances = torch.cdist(rows, rows) + 1e3 * torch.eye(len(rows))
    assert distances.min() > 1e-2


def test_whole_numbers_are_numbers() -> None:
    conditioner = NumberConditioner(4, 0.0, 30.0)

    assert torch.equal(conditioner([7]).embeddings, conditioner([7.0]).embeddings)


def test_numbers_out_of_range_are_refused() -> None:
    conditioner = NumberConditioner(4, 0.0, 30.0)

    for value in (-0.1, 30.1, math.nan, math.inf, "5", True):
        with pytest.raises(ValueError, match=r"Expected a number from 0\.0 to 30\.0, or None"):
            conditioner([value])


def test_settings_without_meaning_are_refused() -> None:
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="must have low < high"):
            NumberConditioner(4, low, high)
    with pytest.raises(ValueError, match="num_waves must be at least 1, got 0"):
        NumberConditioner(4, 0.0, 1.0, num_waves=0)
