"""The published models of AudioLDM and AudioLDM 2, in diffusers' layout."""

from typing import TYPE_CHECKING

from lm_audio.families.family import (
    DIFFUSERS_FILES,
    Ability,
    Checkpoint,
    Family,
    Format,
    LoadSettings,
    ModelInfo,
    NetworkFiles,
)

if TYPE_CHECKING:
    from lm_audio.model import Model


_SECOND: tuple[Ability, ...] = ("text", "continue", "inpaint", "vary", "loop", "best of")


def _info(
    source: str,
    num_parameters: int | None = None,
    *,
    abilities: tuple[Ability, ...] = _SECOND,
) -> ModelInfo:
    return ModelInfo(
        name=source.rpartition("/")[2],
        source=source,
        num_parameters=num_parameters,
        licence="CC-BY-NC-SA-4.0",
        sample_rate=16_000,
        num_channels=1,
        abilities=abilities,
    )


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.audioldm.reading import read_audioldm
    from lm_audio.families.audioldm.stages import audioldm
    from lm_audio.saving.folder import DTYPES

    if settings.packing == "int8":
        raise ValueError("This model does not run in int8. Use float32 or bfloat16.")
    parts = read_audioldm(checkpoint.folder, device=settings.device, dtype=DTYPES[settings.dtype])
    return audioldm(parts)


FAMILY = Family(
    models=(
        _info("cvssp/audioldm2", 346_943_496),
        _info("cvssp/audioldm2-large"),
        _info("cvssp/audioldm2-music", 346_943_496),
        _info("cvssp/audioldm-s-full-v2", abilities=_SECOND[:-1]),
        _info("cvssp/audioldm-m-full", abilities=_SECOND[:-1]),
        _info("cvssp/audioldm-l-full", abilities=_SECOND[:-1]),
    ),
    formats=(
        Format(
            name="audioldm",
            pipelines=("AudioLDM2Pipeline", "AudioLDMPipeline"),
            files=DIFFUSERS_FILES,
            load=_load,
            network=NetworkFiles(folder="unet"),
        ),
    ),
)
