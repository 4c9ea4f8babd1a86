"""Checks that weights from a file are those that a model expects, no more and no less."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor


def check_weights(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str | Path
) -> None:
    """Raises ValueError that names weights which are missing, unexpected or of another shape."""
    names = sorted(found.keys() ^ expected.keys())
    if names:
        raise ValueError(f"{source}: missing or unexpected weights: {', '.join(names)}.")
    misshapen = [name for name in expected if found[name].shape != expected[name].shape]
    if misshapen:
        raise ValueError(
            f"{source}: weights of a shape that config.json does not give: {', '.join(misshapen)}."
        )
