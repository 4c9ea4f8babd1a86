"""config.json of our own models: the fields of a dataclass and a model_type."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from audio_tokenizers.atomic import replacing

Config = TypeVar("Config")


def write_config(folder: Path, config: Any, *, model_type: str) -> None:
    with replacing(folder / "config.json") as path:
        text = json.dumps({"model_type": model_type, **asdict(config)}, indent=2)
        path.write_text(text + "\n")


def read_config(folder: Path, kind: type[Config], *, model_type: str) -> Config:
    """Reads what `write_config` wrote, as a dataclass of this kind."""
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ValueError(f"{folder} has no readable config.json.") from None
    if not isinstance(fields, dict) or fields.pop("model_type", None) != model_type:
        raise ValueError(f"{folder} is not a {model_type}; check the model_type in config.json.")
    for name, expected in get_type_hints(kind).items():
        if name in fields and not _suits(fields[name], expected):
            raise ValueError(
                f"{path} has an invalid {name}: expected {expected.__name__}, got "
                f"{fields[name]!r:.50}."
            )
    try:
        return kind(**fields)
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"{path} does not match this version of lm-audio: {error}.") from None


def _suits(value: Any, expected: Any) -> bool:
    """Whether a value has this type, of those that are checked here."""
    if expected is bool:
        return isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if expected is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return not isinstance(expected, type) or expected is not str or isinstance(value, str)
