"""Evaluation reports: values with their implementations, and reasons for missing ones."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from audio_tokenizers.atomic import replacing
from lm_audio.evaluation.metrics.confidence import bootstrap_interval, ratio
from lm_audio.evaluation.metrics.words import Errors

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One value of one metric.

    Args:
        implementation: the reference implementation that it matches, and the model.
        value: None if it could not be computed; `note` then has the reason.
        interval: the 95 % confidence interval over the items, if applicable.
    """

    metric: str
    implementation: str
    value: float | None
    num_items: int = 0
    interval: tuple[float, float] | None = None
    better: Better = ""
    note: str = ""


def mean_of(
    items: Sequence[float] | Tensor,
    *,
    metric: str,
    implementation: str,
    better: Better,
    note: str = "",
) -> Measurement:
    """The mean over items, with its confidence interval."""
    values = np.asarray(items, dtype=np.float64)
    if not len(values):
        return missing(metric, implementation=implementation, reason=note or "no items")
    return Measurement(
        metric=metric,
        implementation=implementation,
        value=float(values.mean()),
        num_items=len(values),
        interval=bootstrap_interval(values),
        better=better,
        note=note,
    )


def error_rate(errors: Sequence[Errors], *, metric: str, implementation: str) -> Measurement:
    """Total edits over total reference length, equal to jiwer's `wer` and `cer` of lists."""
    if not any(error.length for error in errors):
        raise ValueError("The reference transcripts contain no words.")
    items = np.array([(error.edits, error.length) for error in errors], dtype=np.float64)
    spoken = items[items[:, 1] > 0]
    return Measurement(
        metric=metric,
        implementation=implementation,
        value=float(items[:, 0].sum() / items[:, 1].sum()),
        num_items=len(errors),
        interval=bootstrap_interval(spoken, ratio),
        better="lower",
    )


def missing(metric: str, *, reason: str, implementation: str = "") -> Measurement:
    return Measurement(metric=metric, implementation=implementation, value=None, note=reason)


def write_report(
    folder: Path, measurements: Sequence[Measurement], *, about: Mapping[str, Any]
) -> None:
    """Writes report.json and report.md.

    Args:
        about: the evaluated model and the settings.
    """
    rows = [
        {name: _finite(value) for name, value in asdict(row).items()}  # JSON knows no infinity
        for row in measurements
    ]
    with replacing(folder / "report.json") as path:
        content = {"about": about, "measurements": rows}
        path.write_text(json.dumps(content, indent=2, default=str) + "\n")
    with replacing(folder / "report.md") as path:
        path.write_text(markdown_table(measurements, about=about))


def markdown_table(measurements: Sequence[Measurement], *, about: Mapping[str, Any]) -> str:
    """A table of measured values, and a list of missing ones."""
    lines = ["# Evaluation", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [
        "| metric | value | 95 % | items | better | implementation |",
        "|---|---|---|---|---|---|",
    ]
    for row in measurements:
        if row.value is None:
            continue
        interval = f"{row.interval[0]:.4g} to {row.interval[1]:.4g}" if row.interval else ""
        source = f"{row.implementation}; {row.note}" if row.note else row.implementation
        cells = [row.metric, f"{row.value:.4g}", interval, str(row.num_items), row.better, source]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    unknown = [row for row in measurements if row.value is None]
    if unknown:
        lines += ["", "Not measured:", "", *(f"- {row.metric}: {row.note}" for row in unknown)]
    return "\n".join(lines) + "\n"


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
