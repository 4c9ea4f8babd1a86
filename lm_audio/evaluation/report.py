"""What an evaluation found: each value with its implementation, and why others are missing."""

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
        implementation: which one it is equal to, and of which model.
        value: None where it could not be computed; `note` then says why.
        interval: of 95 % confidence over the items, where that makes sense.
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
    """All edits over the length of all references, equal to jiwer's `wer` and `cer` of lists."""
    if not any(error.length for error in errors):
        raise ValueError("The transcripts hold no words; give those of speech.")
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
        about: what was evaluated, by which settings.
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
    """One table of what was measured, and a list of what was not."""
    lines = ["# Evaluation", "", *(f"- {name}: {value}" for name, value in about.items()), ""]
    lines += [
        "| metric | value | 95 % | items | better | implementation |",
        "|---|---|---|---|---|---|",
    ]
    for row in measurements:
        if row.value is None:
            continue
        interval = f"{row.interval[0]:.4g} to {row.interval[1]:.4g}" if row.interval else ""
        said = f"{row.implementation}; {row.note}" if row.note else row.implementation
        cells = [row.metric, f"{row.value:.4g}", interval, str(row.num_items), row.better, said]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    unknown = [row for row in measurements if row.value is None]
    if unknown:
        lines += ["", "Not measured:", "", *(f"- {row.metric}: {row.note}" for row in unknown)]
    return "\n".join(lines) + "\n"


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
