"""Measurements beside what they must reach, and the report of those that do and do not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing
from lm_audio.evaluation.report import Measurement


@dataclass(frozen=True, kw_only=True)
class GatedMeasurement:
    """A measurement with its gate; one without a gate is there to compare with.

    Args:
        group: of measurements that are made together.
        gate: what the value must reach; goal: what it should.
        strict: a value that equals the gate does not pass.
    """

    group: str
    measurement: Measurement
    gate: float | None = None
    goal: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if self.gate is not None and not self.measurement.better:
            raise ValueError(
                f"{self.measurement.metric!r} has a gate; say whether higher or lower is better."
            )

    @property
    def passed(self) -> bool | None:
        """Whether the gate is passed; None where there is no gate, or no value."""
        return self._reaches(self.gate, strict=self.strict)

    @property
    def goal_reached(self) -> bool | None:
        return self._reaches(self.goal, strict=False)

    def _reaches(self, limit: float | None, *, strict: bool) -> bool | None:
        value = self.measurement.value
        if value is None or limit is None:
            return None
        distance = value - limit if self.measurement.better == "higher" else limit - value
        return distance > 0 if strict else distance >= 0


def write_gates(
    folder: Path, rows: Sequence[GatedMeasurement], *, about: Mapping[str, Any]
) -> None:
    """Writes report.json and report.md; `about` says what was measured, by which command."""
    with replacing(folder / "report.json") as path:
        found = [{**asdict(row), "passed": row.passed} for row in rows]
        content = {"about": about, "measurements": found}
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    with replacing(folder / "report.md") as path:
        path.write_text(gates_table(rows, about=about))


def read_gates(folder: Path) -> tuple[dict[str, Any], list[GatedMeasurement]]:
    """What `write_gates` wrote, `about` first; nothing where there is no report."""
    path = folder / "report.json"
    if not path.is_file():
        return {}, []
    try:
        content = json.loads(path.read_text())
        rows = [_read_row(row) for row in content["measurements"]]
    except (ValueError, LookupError, TypeError):
        raise ValueError(f"{path} is no report of gates; give another folder.") from None
    return content["about"], rows


def gates_table(rows: Sequence[GatedMeasurement], *, about: Mapping[str, Any]) -> str:
    """The table of gates, how each value was found, and what was not measured."""
    lines = ["# The default model and its gates", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "| what | measured | gate | goal | passed |", "|---|---|---|---|---|"]
    known = [row for row in rows if row.measurement.value is not None]
    for row in known:
        limits = [_limit(row, row.gate, strict=row.strict), _limit(row, row.goal, strict=False)]
        cells = [row.measurement.metric, _value(row.measurement), *limits, _verdict(row)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "How each was measured (in brackets: 95 % by the bootstrap):", ""]
    for row in known:
        said = [row.measurement.implementation, row.measurement.note]
        lines.append(f"- {row.measurement.metric}: {'; '.join(filter(None, said))}")
    unknown = [row.measurement for row in rows if row.measurement.value is None]
    if unknown:
        lines += ["", "Not measured:", "", *(f"- {row.metric}: {row.note}" for row in unknown)]
    return "\n".join(lines) + "\n"


def _read_row(row: dict[str, Any]) -> GatedMeasurement:
    known = {key: value for key, value in row.items() if key != "passed"}
    measured = dict(known.pop("measurement"))
    if measured["interval"] is not None:
        measured["interval"] = tuple(measured["interval"])
    return GatedMeasurement(measurement=Measurement(**measured), **known)


def _value(row: Measurement) -> str:
    interval = f" ({row.interval[0]:.3g} to {row.interval[1]:.3g})" if row.interval else ""
    return f"{row.value:.3g}{interval}, n = {row.num_items}"


def _limit(row: GatedMeasurement, limit: float | None, *, strict: bool) -> str:
    if limit is None:
        return ""
    sign = ">" if row.measurement.better == "higher" else "<"
    return f"{sign}{'' if strict else '='} {limit:.3g}"


def _verdict(row: GatedMeasurement) -> str:
    if row.passed is None:
        return ""
    if row.passed and row.goal_reached:
        return "yes, and the goal"
    return "yes" if row.passed else "**no**"
