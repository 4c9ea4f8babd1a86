"""Compares measurements with their targets and writes the report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing
from lm_audio.evaluation.report import Measurement


@dataclass(frozen=True, kw_only=True)
class TargetResult:
    """A measurement and its target; one without a target is there for comparison.

    Args:
        group: the name of the measurements made together with it.
        target: the value to reach.
        stretch: a more ambitious value.
        strict: whether the value must exceed the target; equalling it is not enough.
    """

    group: str
    measurement: Measurement
    target: float | None = None
    stretch: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.target is not None and not self.measurement.better:
            raise ValueError(
                f"{self.measurement.metric!r} has a target, so it needs better='higher' or 'lower'."
            )

    @property
    def met(self) -> bool | None:
        """Whether the value reaches the target; None without a target or a value."""
        return self._reaches(self.target, strict=self.strict)

    @property
    def stretch_met(self) -> bool | None:
        return self._reaches(self.stretch, strict=False)

    def _reaches(self, limit: float | None, *, strict: bool) -> bool | None:
        value = self.measurement.value
        if value is None or limit is None:
            return None
        distance = value - limit if self.measurement.better == "higher" else limit - value
        return distance > 0 if strict else distance >= 0


def write_target_report(
    folder: Path, rows: Sequence[TargetResult], *, about: Mapping[str, Any]
) -> None:
    """Writes report.json and report.md; `about` describes the model and the commands."""
    with replacing(folder / "report.json") as path:
        found = [{**asdict(row), "met": row.met} for row in rows]
        content = {"about": about, "measurements": found}
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    with replacing(folder / "report.md") as path:
        path.write_text(target_table(rows, about=about))


def read_target_report(folder: Path) -> tuple[dict[str, Any], list[TargetResult]]:
    """The `about` and rows that `write_target_report` wrote; both empty without a report."""
    path = folder / "report.json"
    if not path.is_file():
        return {}, []
    try:
        content = json.loads(path.read_text())
        rows = [_read_row(row) for row in content["measurements"]]
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path} is not a target report; choose another --out.") from None
    return content["about"], rows


def target_table(rows: Sequence[TargetResult], *, about: Mapping[str, Any]) -> str:
    """The table of targets, how each value was measured, and what was not measured."""
    lines = ["# The default model and its targets", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| what | measured | target | stretch | met |", "|---|---|---|---|---|"]
    known = [row for row in rows if row.measurement.value is not None]
    for row in known:
        limits = [
            _limit(row, row.target, strict=row.strict),
            _limit(row, row.stretch, strict=False),
        ]
        cells = [row.measurement.metric, _value(row.measurement), *limits, _verdict(row)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "How each was measured (in brackets: 95 % by the bootstrap):", ""]
    for row in known:
        parts = [row.measurement.implementation, row.measurement.note]
        lines.append(f"- {row.measurement.metric}: {'; '.join(filter(None, parts))}")
    unknown = [row.measurement for row in rows if row.measurement.value is None]
    if unknown:
        lines += ["", "Not measured:", "", *(f"- {row.metric}: {row.note}" for row in unknown)]
    return "\n".join(lines) + "\n"


def _read_row(row: dict[str, Any]) -> TargetResult:
    known = {key: value for key, value in row.items() if key != "met"}
    measured = dict(known.pop("measurement"))
    if measured["interval"] is not None:
        measured["interval"] = tuple(measured["interval"])
    return TargetResult(measurement=Measurement(**measured), **known)


def _value(row: Measurement) -> str:
    interval = f" ({row.interval[0]:.3g} to {row.interval[1]:.3g})" if row.interval else ""
    return f"{row.value:.3g}{interval}, n = {row.num_items}"


def _limit(row: TargetResult, limit: float | None, *, strict: bool) -> str:
    if limit is None:
        return ""
    sign = ">" if row.measurement.better == "higher" else "<"
    return f"{sign}{'' if strict else '='} {limit:.3g}"


def _verdict(row: TargetResult) -> str:
    if row.met is None:
        return ""
    if row.met and row.stretch_met:
        return "yes, and the stretch"
    return "yes" if row.met else "**no**"
