"""Make-An-Audio, whose weights are not on the hub, in the original layout and in ours."""

from pathlib import Path
from typing import TYPE_CHECKING

from lm_audio.families.family import (
    DIFFUSERS_FILES,
    Checkpoint,
    Family,
    Format,
    LoadSettings,
    NetworkFiles,
)

if TYPE_CHECKING:
    from lm_audio.model import Model


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.make_an_audio.original_layout import TOKENIZER, read_original
    from lm_audio.families.make_an_audio.reading import read_make_an_audio
    from lm_audio.families.make_an_audio.stages import make_an_audio
    from lm_audio.saving.folder import DTYPES

    if settings.packing == "int8":
        raise ValueError("This model does not run in int8. Use float32 or bfloat16.")
    device, dtype = settings.device, DTYPES[settings.dtype]
    if checkpoint.format == "make-an-audio":
        parts = read_make_an_audio(checkpoint.folder, device=device, dtype=dtype)
    else:
        tokenizer = settings.text_encoder or TOKENIZER
        parts = read_original(checkpoint.folder, tokenizer=tokenizer).to(device, dtype)
    return make_an_audio(parts)


def _holds_original(folder: Path) -> bool:
    from lm_audio.families.make_an_audio.original_layout import holds_original

    return holds_original(folder)


FAMILY = Family(
    formats=(
        Format(
            name="make-an-audio",
            pipelines=("MakeAnAudioPipeline",),
            files=DIFFUSERS_FILES,
            load=_load,
            network=NetworkFiles(folder="unet"),
        ),
        Format(
            name="make-an-audio-original",
            holds=_holds_original,
            load=_load,
            lacks_text_encoder=True,
        ),
    ),
)
