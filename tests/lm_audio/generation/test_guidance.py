"""Which rows guidance needs, and what they weigh."""

import pytest

from lm_audio.generation.step import guidance_rows
from lm_audio.sampling import Sampling


def rows(
    scale: object, given: list[str], seconds: tuple[float, ...] = (0.0,)
) -> list[tuple[frozenset[str], tuple[float, ...]]]:
    return guidance_rows(Sampling(guidance_scale=scale), given, seconds)  # type: ignore[arg-type]


def test_one_scale_takes_two_rows() -> None:
    without, full = rows(3.0, ["text", "label"])
    assert without == (frozenset({"text", "label"}), (-2.0,))
    assert full == (frozenset(), (3.0,))


@pytest.mark.parametrize("scale", [1.0, {"text": 1.0}, {"text": 1.0, "label": 1.0}])
def test_scale_1_costs_no_second_row(scale: object) -> None:
    assert rows(scale, ["text", "label"]) == [(frozenset(), (1.0,))]


def test_scale_0_is_the_row_without_prompts() -> None:
    assert rows(0.0, ["text"]) == [(frozenset({"text"}), (1.0,))]


@pytest.mark.parametrize("scale", [3.0, {"text": 3.0}])
def test_no_prompt_costs_no_second_row(scale: object) -> None:
    assert rows(scale, []) == [(frozenset(), (1.0,))]


def test_a_scale_for_each_condition_adds_them_one_after_the_other() -> None:
    without, first, both = rows({"text": 4.0, "style": 2.0}, ["style", "text"])
    assert without == (frozenset({"text", "style"}), (-3.0,))
    assert first == (frozenset({"style"}), (2.0,))
    assert both == (frozenset(), (2.0,))
    for branch in (rows({"text": 4.0, "style": 2.0}, ["text"]), rows(4.0, ["text"])):
        assert [weights for _, weights in branch] == [(-3.0,), (4.0,)]


def test_a_schedule_changes_the_scale_over_time() -> None:
    sampling = Sampling(guidance_scale=3.0, guidance_schedule=((1.0, 1.0), (3.0, 0.0)))
    without, full = guidance_rows(sampling, ["text"], [0.0, 1.0, 2.0, 3.0, 9.0])
    assert full[1] == pytest.approx((3.0, 3.0, 2.0, 1.0, 1.0))
    assert without[1] == pytest.approx((-2.0, -2.0, -1.0, 0.0, 0.0))
