"""The published models of Dance Diffusion, in diffusers' layout."""

from typing import TYPE_CHECKING

from lm_audio.families.family import (
    DIFFUSERS_FILES,
    Checkpoint,
    Family,
    Format,
    LoadSettings,
    ModelInfo,
    NetworkFiles,
)

if TYPE_CHECKING:
    from lm_audio.model import Model


_OWN_CARD = "see model card"


def _info(
    name: str, sample_rate: int, *, num_parameters: int | None = None, licence: str = _OWN_CARD
) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=f"harmonai/{name}",
        num_parameters=num_parameters,
        licence=licence,
        sample_rate=sample_rate,
        num_channels=2,
        abilities=("continue", "inpaint", "vary", "loop"),
    )


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.dance_diffusion.layout import read_dance_diffusion
    from lm_audio.saving.folder import DTYPES

    if settings.packing == "int8":
        raise ValueError("This model does not run in int8. Use float32 or bfloat16.")
    return read_dance_diffusion(
        checkpoint.folder, device=settings.device, dtype=DTYPES[settings.dtype]
    )


FAMILY = Family(
    models=(
        _info("maestro-150k", 16_000, num_parameters=221_389_322, licence="MIT"),
        _info("honk-140k", 16_000),
        _info("unlocked-250k", 16_000),
        _info("glitch-440k", 48_000),
        _info("jmann-small-190k", 48_000),
        _info("jmann-large-580k", 48_000),
    ),
    formats=(
        Format(
            name="dance-diffusion",
            pipelines=("DanceDiffusionPipeline",),
            files=DIFFUSERS_FILES,
            load=_load,
            network=NetworkFiles(folder="unet"),
        ),
    ),
)
