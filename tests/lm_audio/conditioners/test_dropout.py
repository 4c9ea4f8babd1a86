"""Conditions forgotten at random."""

import pytest
import torch

from lm_audio.conditioners.dropout import drop

B = 4000


def values() -> dict[str, list[int | None]]:
    return {name: list(range(B)) for name in ("text", "label", "semantic")}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_values_are_dropped_as_often_as_asked_and_else_kept() -> None:
    dropped = drop(values(), {"text": 0.1, "label": 0.5}, joint=0.2, generator=seeded())

    gone = {name: torch.tensor([x is None for x in row]) for name, row in dropped.items()}
    together = gone["semantic"]
    assert abs(together.float().mean() - 0.2) < 0.02
    assert gone["text"][together].all()
    assert gone["label"][together].all()
    assert abs(gone["text"][~together].float().mean() - 0.1) < 0.02
    assert abs(gone["label"][~together].float().mean() - 0.5) < 0.03
    both = gone["text"] & gone["label"] & ~together
    assert abs(both.sum() / (~together).sum() - 0.05) < 0.015  # independent of each other
    for row in dropped.values():
        assert all(x is None or x == i for i, x in enumerate(row))


def test_probabilities_of_zero_and_one_are_certain() -> None:
    dropped = drop(values(), {"text": 1.0, "label": 0.0}, generator=seeded())

    assert dropped == {**values(), "text": [None] * B}
    all_gone = drop(values(), {}, joint=1.0, generator=seeded())
    assert all_gone == dict.fromkeys(values(), [None] * B)


def test_the_same_generator_state_drops_the_same() -> None:
    settings = {"text": 0.5}

    first = drop(values(), settings, joint=0.1, generator=seeded(3))

    assert drop(values(), settings, joint=0.1, generator=seeded(3)) == first
    assert drop(values(), settings, joint=0.1, generator=seeded(4)) != first


def test_what_is_given_is_left_alone() -> None:
    given = values()

    drop(given, {"text": 1.0}, joint=1.0, generator=seeded())

    assert given == values()


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown condition 'texts' to drop\. Choose from: text, label"
    ):
        drop(values(), {"texts": 0.1}, generator=seeded())
    for probability in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"Dropout probabilities must be between 0 and 1"):
            drop(values(), {"text": probability}, generator=seeded())
        with pytest.raises(ValueError, match=r"Dropout probabilities must be between 0 and 1"):
            drop(values(), {}, joint=probability, generator=seeded())
