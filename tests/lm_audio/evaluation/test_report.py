"""Reports: one JSON and one table, with what is missing and why."""

import json
from pathlib import Path

from lm_audio.evaluation.report import mean_of, missing, write_report


def test_a_report_has_every_value_and_the_reason_of_each_missing_one(tmp_path: Path) -> None:
    found = [
        mean_of(
            [1.0, 2.0, 3.0], metric="si-sdr", implementation="torchmetrics | ours", better="higher"
        ),
        mean_of([float("inf")], metric="odd", implementation="x", better="lower"),
        missing("words", reason="no recogniser was given"),
    ]
    write_report(tmp_path, found, about={"codec": "runs/codec"})
    report = json.loads((tmp_path / "report.json").read_text())
    first, odd, words = report["measurements"]
    assert first["value"] == 2.0
    assert first["num_items"] == 3
    assert 1.0 <= first["interval"][0] < 2.0 < first["interval"][1] <= 3.0
    assert odd["value"] == "inf"
    assert words["value"] is None
    assert words["note"] == "no recogniser was given"
    table = (tmp_path / "report.md").read_text()
    assert "| si-sdr | 2 |" in table
    assert "torchmetrics \\| ours" in table
    assert "- words: no recogniser was given" in table
    assert report["about"] == {"codec": "runs/codec"}


def test_the_mean_of_no_items_is_missing() -> None:
    assert mean_of([], metric="pesq", implementation="pesq", better="higher").note == "no items"
