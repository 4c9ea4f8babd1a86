"""Models that can be loaded by name: the one in the package, and public ones from the hub."""

import json
from math import prod
from pathlib import Path

from safetensors import safe_open

from lm_audio import pretrained
from lm_audio.families.family import ModelInfo
from lm_audio.families.table import MODELS

DEFAULT = "default"
"""The name of the model in the package."""


def models() -> list[ModelInfo]:
    """The models that `lm_audio.load` knows by name, the one in the package first."""
    return [*_in_package(), *MODELS]


def _in_package() -> list[ModelInfo]:
    """The embedded default, if this copy of the package has it."""
    folder = pretrained.DEFAULT_FOLDER
    if not (folder / "config.json").is_file():
        return []
    config = json.loads((folder / "config.json").read_text())
    codec = json.loads((folder / "codec" / "config.json").read_text())
    info = ModelInfo(
        name=DEFAULT,
        source=str(folder),
        place="package",
        num_parameters=sum(_num_parameters(folder / s["name"]) for s in config["stages"]),
        size=sum(config["files"].values()),
        licence=config["about"]["licence"],
        sample_rate=codec["sample_rate"],
        num_channels=config["renderer"]["channels"],
        abilities=("text", "continue", "inpaint"),
    )
    return [info]


def _num_parameters(stage: Path) -> int:
    """The parameters of a stage's language model, counted from the header of its weight file."""
    with safe_open(stage / "model.safetensors", framework="numpy") as weights:
        names = [name for name in weights.keys() if name.startswith("model.")]  # noqa: SIM118
        return sum(prod(weights.get_slice(name).get_shape()) for name in names)
