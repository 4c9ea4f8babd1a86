"""Numbers within a range."""

import math

import pytest
import torch

from lm_audio.conditioners.number import NumberConditioner, ScaledNumber


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


def test_a_scaled_number_is_limited_to_its_range() -> None:
    conditioner = ScaledNumber(4, 2.0, 10.0, num_waves=3)
    made = conditioner([4.0, 1.0, 2.0, 12, None])
    scaled = torch.tensor([0.25])
    angles = 2 * math.pi * scaled * conditioner.waves.frequencies
    inputs = torch.cat([scaled, angles.sin(), angles.cos()])
    expected = conditioner.projection.weight @ inputs + conditioner.projection.bias
    torch.testing.assert_close(made.embeddings[0, 0], expected)
    assert torch.equal(made.embeddings[1], made.embeddings[2])
    assert torch.equal(made.embeddings[3], conditioner([10.0]).embeddings[0])
    assert torch.equal(made.embeddings[4], torch.zeros(1, 4))


def test_frequencies_that_are_not_learned_are_spaced_evenly_in_octaves() -> None:
    conditioner = ScaledNumber(4, 0.0, 1.0, num_waves=5, spaced=(0.5, 8.0))
    torch.testing.assert_close(
        conditioner.waves.frequencies, torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])
    )
    assert set(conditioner.state_dict()) == {"projection.weight", "projection.bias"}
    angles = 2 * math.pi * 0.3 * conditioner.waves.frequencies
    inputs = torch.cat([angles.cos(), angles.sin()])
    expected = conditioner.projection.weight @ inputs + conditioner.projection.bias
    torch.testing.assert_close(conditioner([0.3]).embeddings[0, 0], expected)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a number, or None, got '3'"):
        ScaledNumber(4, 0.0, 1.0)(["3"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"low < high, got 1\.0 to 1\.0"):
        ScaledNumber(4, 1.0, 1.0)
