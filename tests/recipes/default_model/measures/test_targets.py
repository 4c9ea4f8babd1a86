"""Targets: which values meet them, and what the report says."""

from pathlib import Path

import pytest

from lm_audio.evaluation.report import Better, Measurement, missing
from measures.targets import TargetResult, read_target_report, target_table, write_target_report


def row(value: float | None, better: Better, **limits: float | bool) -> TargetResult:
    measurement = Measurement(
        metric="m", implementation="i", value=value, num_items=3, interval=(0.1, 0.9), better=better
    )
    return TargetResult(group="g", measurement=measurement, **limits)  # type: ignore[arg-type]  # numbers and flags


@pytest.mark.parametrize(
    ("found", "met", "stretch_met"),
    [
        (row(0.7, "higher", target=0.7, stretch=0.9), True, False),
        (row(0.69, "higher", target=0.7, stretch=0.9), False, False),
        (row(0.0, "higher", target=0.0, strict=True), False, None),
        (row(0.2, "lower", target=0.3, stretch=0.2), True, True),
        (row(0.4, "lower", target=0.3), False, None),
        (row(0.4, "lower"), None, None),
        (row(None, "lower", target=0.3), None, None),
    ],
)
def test_a_value_meets_its_target_on_the_better_side(
    found: TargetResult, met: bool | None, stretch_met: bool | None
) -> None:
    assert found.met is met
    assert found.stretch_met is stretch_met


def test_a_target_needs_a_better_side() -> None:
    with pytest.raises(ValueError, match="'m' has a target, so it needs better="):
        row(0.4, "", target=0.3)


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_target_report(tmp_path) == ({}, [])
    unknown = TargetResult(group="h", measurement=missing("x", reason="no judge"))
    rows = [row(0.7, "higher", target=0.6, stretch=0.9, strict=True), unknown]
    write_target_report(tmp_path, rows, about={"model": "abc"})
    assert read_target_report(tmp_path) == ({"model": "abc"}, rows)
    table = (tmp_path / "report.md").read_text()
    assert "| m | 0.7 (0.1 to 0.9), n = 3 | > 0.6 | >= 0.9 | yes |" in table
    assert "- x: no judge" in table
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"report.json is not a target report; choose another --out"
    ):
        read_target_report(tmp_path)


def test_the_table_says_what_failed() -> None:
    assert "| <= 0.3 |  | **no** |" in target_table([row(0.4, "lower", target=0.3)], about={})
