"""What can be loaded by name: public models, with what their cards say of them."""

from dataclasses import dataclass
from typing import Literal

Ability = Literal["text", "continue", "inpaint", "voices"]

_ALL_OF_MUSICGEN: tuple[Ability, ...] = ("text", "continue", "inpaint")
_ALL_OF_BARK: tuple[Ability, ...] = ("text", "voices")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that `lm_audio.load` knows by name; what is not known of it is None.

    Args:
        source: the hub id that the name stands for.
        place: whether the weights come with this package or from the hub.
        num_parameters: of the language models, without text encoder and codec.
        download: bytes fetched, without a text encoder that is a model of its own on the hub.
        abilities: what it can make sound from: a text, audio to continue, a span to fill in, with
            one of several voices.
    """

    name: str
    source: str
    place: Literal["package", "hub"] = "hub"
    num_parameters: int | None = None
    download: int | None = None
    licence: str
    sample_rate: int
    num_channels: int
    abilities: tuple[Ability, ...]


def models() -> list[ModelInfo]:
    """The models that `lm_audio.load` knows by name."""
    return [
        ModelInfo(
            name="audiogen-medium",
            source="facebook/audiogen-medium",
            num_parameters=1_837_556_736,
            download=3_920_000_000,
            licence="CC-BY-NC-4.0",
            sample_rate=16_000,
            num_channels=1,
            abilities=_ALL_OF_MUSICGEN,
        ),
        _musicgen("small", 419_584_000, download=2_360_000_000),
        _musicgen("medium", 1_837_556_736, download=8_040_000_000),
        _musicgen("large", 3_255_382_016),
        _musicgen("stereo-small", 436_365_312),
        _musicgen("stereo-medium", 1_862_728_704, download=4_070_000_000),
        _musicgen("stereo-large", 3_288_944_640, download=6_920_000_000),
        _bark("bark", 1_085_739_008, download=4_490_000_000),
        _bark("bark-small", 389_557_248, download=1_680_000_000),
    ]


def _musicgen(size: str, num_parameters: int, *, download: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=f"musicgen-{size}",
        source=f"facebook/musicgen-{size}",
        num_parameters=num_parameters,
        download=download,
        licence="CC-BY-NC-4.0",
        sample_rate=32_000,
        num_channels=2 if size.startswith("stereo") else 1,
        abilities=_ALL_OF_MUSICGEN,
    )


def _bark(name: str, num_parameters: int, *, download: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=f"suno/{name}",
        num_parameters=num_parameters,
        download=download,
        licence="MIT",
        sample_rate=24_000,
        num_channels=1,
        abilities=_ALL_OF_BARK,
    )
