"""What can be loaded by name: the model in the package, and public ones as their cards tell."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

from safetensors import safe_open

from lm_audio import pretrained

DEFAULT = "default"
"""The name of the model in the package."""

Ability = Literal["text", "continue", "inpaint", "voices"]

_TEXT_AND_AUDIO: tuple[Ability, ...] = ("text", "continue", "inpaint")
_ALL_OF_BARK: tuple[Ability, ...] = ("text", "voices")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that `lm_audio.load` knows by name; what is not known of it is None.

    Args:
        source: the hub id that the name stands for, or the folder in the package.
        place: whether the weights come with this package or from the hub.
        num_parameters: of the language models, without text encoder and codec.
        size: bytes of its files, without a text encoder that is a model of its own on the hub.
        abilities: what it can make sound from: a text, audio to continue, a span to fill in, with
            one of several voices.
    """

    name: str
    source: str
    place: Literal["package", "hub"] = "hub"
    num_parameters: int | None = None
    size: int | None = None
    licence: str
    sample_rate: int
    num_channels: int
    abilities: tuple[Ability, ...]


def models() -> list[ModelInfo]:
    """The models that `lm_audio.load` knows by name, the one in the package first."""
    return [
        *_in_package(),
        ModelInfo(
            name="audiogen-medium",
            source="facebook/audiogen-medium",
            num_parameters=1_837_556_736,
            size=3_920_000_000,
            licence="CC-BY-NC-4.0",
            sample_rate=16_000,
            num_channels=1,
            abilities=_TEXT_AND_AUDIO,
        ),
        _musicgen("small", 419_584_000, size=2_360_000_000),
        _musicgen("medium", 1_837_556_736, size=8_040_000_000),
        _musicgen("large", 3_255_382_016),
        _musicgen("stereo-small", 436_365_312),
        _musicgen("stereo-medium", 1_862_728_704, size=4_070_000_000),
        _musicgen("stereo-large", 3_288_944_640, size=6_920_000_000),
        _bark("bark", 1_085_739_008, size=4_490_000_000),
        _bark("bark-small", 389_557_248, size=1_680_000_000),
    ]


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
        abilities=_TEXT_AND_AUDIO,
    )
    return [info]


def _num_parameters(stage: Path) -> int:
    """Those of a stage's language model, told by the head of its file."""
    with safe_open(stage / "model.safetensors", framework="numpy") as weights:
        names = [name for name in weights.keys() if name.startswith("model.")]  # noqa: SIM118
        return sum(prod(weights.get_slice(name).get_shape()) for name in names)


def _musicgen(version: str, num_parameters: int, *, size: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=f"musicgen-{version}",
        source=f"facebook/musicgen-{version}",
        num_parameters=num_parameters,
        size=size,
        licence="CC-BY-NC-4.0",
        sample_rate=32_000,
        num_channels=2 if version.startswith("stereo") else 1,
        abilities=_TEXT_AND_AUDIO,
    )


def _bark(name: str, num_parameters: int, *, size: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=f"suno/{name}",
        num_parameters=num_parameters,
        size=size,
        licence="MIT",
        sample_rate=24_000,
        num_channels=1,
        abilities=_ALL_OF_BARK,
    )
