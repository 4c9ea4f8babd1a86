"""Gates: what passes, what does not, and what the report says of it."""

from pathlib import Path

import pytest

from lm_audio.evaluation.gates import GatedMeasurement, gates_table, read_gates, write_gates
from lm_audio.evaluation.report import Better, Measurement, missing


def row(value: float | None, better: Better, **limits: float | bool) -> GatedMeasurement:
    measurement = Measurement(
        metric="m", implementation="i", value=value, num_items=3, interval=(0.1, 0.9), better=better
    )
    return GatedMeasurement(group="g", measurement=measurement, **limits)  # type: ignore[arg-type]  # numbers and flags


@pytest.mark.parametrize(
    ("found", "passed", "goal_reached"),
    [
        (row(0.7, "higher", gate=0.7, goal=0.9), True, False),
        (row(0.69, "higher", gate=0.7, goal=0.9), False, False),
        (row(0.0, "higher", gate=0.0, strict=True), False, None),
        (row(0.2, "lower", gate=0.3, goal=0.2), True, True),
        (row(0.4, "lower", gate=0.3), False, None),
        (row(0.4, "lower"), None, None),
        (row(None, "lower", gate=0.3), None, None),
    ],
)
def test_a_value_passes_on_the_better_side_of_its_gate(
    found: GatedMeasurement, passed: bool | None, goal_reached: bool | None
) -> None:
    assert found.passed is passed
    assert found.goal_reached is goal_reached


def test_a_gate_needs_a_better_side() -> None:
    with pytest.raises(ValueError, match="'m' has a gate; say whether higher or lower is better"):
        row(0.4, "", gate=0.3)


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_gates(tmp_path) == ({}, [])
    unknown = GatedMeasurement(group="h", measurement=missing("x", reason="no judge"))
    rows = [row(0.7, "higher", gate=0.6, goal=0.9, strict=True), unknown]
    write_gates(tmp_path, rows, about={"model": "abc"})
    assert read_gates(tmp_path) == ({"model": "abc"}, rows)
    table = (tmp_path / "report.md").read_text()
    assert "| m | 0.7 (0.1 to 0.9), n = 3 | > 0.6 | >= 0.9 | yes |" in table
    assert "- x: no judge" in table
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(ValueError, match=r"report.json is no report of gates; give another folder"):
        read_gates(tmp_path)


def test_the_table_says_what_failed() -> None:
    assert "| <= 0.3 |  | **no** |" in gates_table([row(0.4, "lower", gate=0.3)], about={})
