"""lm-audio's own folder, for a duet or any other model of LM stages and a codec."""

from typing import TYPE_CHECKING

from lm_audio.families.family import Checkpoint, Family, Format, LoadSettings

if TYPE_CHECKING:
    from lm_audio.model import Model


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.saving.folder import load_model

    return load_model(
        checkpoint.folder,
        device=settings.device,
        dtype=settings.dtype,
        packing=settings.packing,
    )


FAMILY = Family(
    formats=(
        Format(
            name="lm-audio",
            model_type="lm-audio",
            files=(("*.json", "*.safetensors", "*.model", "*.txt"),),
            load=_load,
        ),
    ),
)
