"""The published model of Riffusion, in diffusers' layout."""

from typing import TYPE_CHECKING

from lm_audio.families.family import (
    Checkpoint,
    Family,
    Format,
    LoadSettings,
    ModelInfo,
    NetworkFiles,
)

if TYPE_CHECKING:
    from lm_audio.model import Model

# Neither the safety checker nor the traced U-Net, which is a program.
_FILES = (
    (
        "*.json", "tokenizer/*", "README.md", "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors",
    ),
    (
        "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    ),  # without safetensors
)  # fmt: skip


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.riffusion.reading import read_riffusion
    from lm_audio.families.riffusion.stages import riffusion
    from lm_audio.saving.folder import DTYPES

    if settings.packing == "int8":
        raise ValueError("This model does not run in int8. Use float32 or bfloat16.")
    parts = read_riffusion(
        checkpoint.folder,
        device=settings.device,
        dtype=DTYPES[settings.dtype],
        hub_id=checkpoint.hub_id,
    )
    return riffusion(parts)


FAMILY = Family(
    models=(
        ModelInfo(
            name="riffusion-model-v1",
            source="riffusion/riffusion-model-v1",
            num_parameters=859_520_964,
            licence="CreativeML OpenRAIL-M",
            sample_rate=44_100,
            num_channels=1,
            abilities=("text", "continue", "inpaint", "vary", "loop"),
        ),
    ),
    formats=(
        Format(
            name="riffusion",
            pipelines=("StableDiffusionPipeline",),
            files=_FILES,
            load=_load,
            network=NetworkFiles(folder="unet"),
        ),
    ),
)
