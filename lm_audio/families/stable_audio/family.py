"""The published models of Stable Audio, in the layouts of diffusers and stable-audio-tools."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

LICENCE = "Stability AI Community, gated"
_ABILITIES: tuple[Ability, ...] = ("text", "continue", "inpaint", "vary", "loop")


def _info(source: str, num_parameters: int) -> ModelInfo:
    return ModelInfo(
        name=source.rpartition("/")[2],
        source=source,
        num_parameters=num_parameters,
        licence=LICENCE,
        sample_rate=44_100,
        num_channels=2,
        abilities=_ABILITIES,
    )


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.stable_audio.reading import read_stable_audio
    from lm_audio.families.stable_audio.stages import stable_audio
    from lm_audio.saving.folder import DTYPES

    return stable_audio(
        read_stable_audio(checkpoint.folder, device=settings.device, dtype=DTYPES[settings.dtype])
    )


def _load_third(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.stable_audio.stable_audio_3 import read_stable_audio_3
    from lm_audio.families.stable_audio.stages import stable_audio
    from lm_audio.saving.folder import DTYPES

    return stable_audio(
        read_stable_audio_3(checkpoint.folder, device=settings.device, dtype=DTYPES[settings.dtype])
    )


def _load_tools(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    from lm_audio.families.stable_audio.stages import stable_audio
    from lm_audio.families.stable_audio.tools_layout import read_tools_layout
    from lm_audio.saving.folder import DTYPES

    return stable_audio(
        read_tools_layout(
            checkpoint.folder,
            text_encoder=settings.text_encoder,
            device=settings.device,
            dtype=DTYPES[settings.dtype],
        )
    )


def _first_names(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    from lm_audio.families.stable_audio.names import first_dit_names

    return first_dit_names(weights)


def _third_names(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    from lm_audio.families.stable_audio.names import third_dit_names

    return third_dit_names(weights)


def _holds_tools(folder: Path) -> bool:
    from lm_audio.families.stable_audio.tools_layout import holds_tools_layout

    return holds_tools_layout(folder)


FAMILY = Family(
    models=(
        _info("stabilityai/stable-audio-open-1.0", 1_056_939_136),
        _info("stabilityai/stable-audio-open-small", 340_928_640),
    ),
    formats=(
        Format(
            name="stable-audio",
            pipelines=("StableAudioPipeline",),
            files=DIFFUSERS_FILES,
            load=_load,
            network=NetworkFiles(folder="transformer", names=_first_names),
        ),
        Format(
            name="stable-audio-3",
            pipelines=("StableAudio3Pipeline",),
            files=DIFFUSERS_FILES,
            load=_load_third,
            network=NetworkFiles(folder="transformer", names=_third_names),
        ),
        Format(
            name="stable-audio-tools",
            holds=_holds_tools,
            files=(("model_config.json", "model.safetensors"), ("model.ckpt",)),
            load=_load_tools,
            lacks_text_encoder=True,
        ),
    ),
)
