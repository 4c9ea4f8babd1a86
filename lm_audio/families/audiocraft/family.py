"""The published AudioGen, MusicGen and MAGNeT models and their two layouts."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_audio.families.family import (
    TORCH_FILES,
    Checkpoint,
    Family,
    Format,
    LoadSettings,
    ModelInfo,
)

if TYPE_CHECKING:
    from lm_audio.model import Model


SMALL, MEDIUM = 419_584_000, 1_837_556_736  # parameters


def _musicgen(version: str, num_parameters: int, *, size: int | None = None) -> ModelInfo:
    return ModelInfo(
        name=f"musicgen-{version}",
        source=f"facebook/musicgen-{version}",
        num_parameters=num_parameters,
        size=size,
        licence="CC-BY-NC-4.0",
        sample_rate=32_000,
        num_channels=2 if version.startswith("stereo") else 1,
        abilities=("text", "continue", "inpaint"),
    )


def _melody(version: str, num_parameters: int) -> ModelInfo:
    info = _musicgen(version, num_parameters)
    return replace(info, abilities=(*info.abilities, "melody"))


def _magnet(name: str, num_parameters: int, *, sample_rate: int = 32_000) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=f"facebook/{name}",
        num_parameters=num_parameters,
        licence="CC-BY-NC-4.0",
        sample_rate=sample_rate,
        num_channels=1,
        abilities=("text", "continue", "inpaint"),
    )


def _load_transformers(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.audiocraft.stages import model_of
    from lm_audio.families.audiocraft.transformers_layout import read_musicgen
    from lm_audio.saving.folder import DTYPES

    return model_of(
        read_musicgen(
            checkpoint.folder,
            device=settings.device,
            dtype=DTYPES[settings.dtype],
            packing=settings.packing,
        )
    )


def _load_original(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.audiocraft.original_layout import read_audiocraft
    from lm_audio.families.audiocraft.stages import model_of
    from lm_audio.saving.folder import DTYPES

    return model_of(
        read_audiocraft(
            checkpoint.folder,
            text_encoder=settings.text_encoder,
            device=settings.device,
            dtype=DTYPES[settings.dtype],
            packing=settings.packing,
        )
    )


def _holds_original(folder: Path) -> bool:
    from lm_audio.families.audiocraft.original_layout import holds_audiocraft

    return holds_audiocraft(folder)


FAMILY = Family(
    models=(
        ModelInfo(
            name="audiogen-medium",
            source="facebook/audiogen-medium",
            num_parameters=MEDIUM,
            size=3_920_000_000,
            licence="CC-BY-NC-4.0",
            sample_rate=16_000,
            num_channels=1,
            abilities=("text", "continue", "inpaint"),
        ),
        _musicgen("small", SMALL, size=2_360_000_000),
        _musicgen("medium", MEDIUM, size=8_040_000_000),
        _musicgen("large", 3_255_382_016),
        _musicgen("stereo-small", 436_365_312),
        _musicgen("stereo-medium", 1_862_728_704, size=4_070_000_000),
        _musicgen("stereo-large", 3_288_944_640, size=6_920_000_000),
        _melody("melody", 1_384_424_448),
        _melody("melody-large", 2_449_879_040),
        _melody("stereo-melody", 1_409_596_416),
        _melody("stereo-melody-large", 2_483_441_664),
        _magnet("magnet-small-10secs", SMALL),
        _magnet("magnet-medium-10secs", MEDIUM),
        _magnet("magnet-small-30secs", SMALL),
        _magnet("magnet-medium-30secs", MEDIUM),
        _magnet("audio-magnet-small", SMALL, sample_rate=16_000),
        _magnet("audio-magnet-medium", MEDIUM, sample_rate=16_000),
    ),
    formats=(
        Format(name="musicgen", model_type="musicgen", load=_load_transformers),
        Format(name="musicgen-melody", model_type="musicgen_melody", load=_load_transformers),
        Format(
            name="audiocraft",
            holds=_holds_original,
            files=TORCH_FILES,
            load=_load_original,
            lacks_text_encoder=True,
        ),
    ),
)
