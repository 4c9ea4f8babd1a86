"""The published Bark models and their two layouts."""

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


def _bark(name: str, num_parameters: int, *, size: int) -> ModelInfo:
    return ModelInfo(
        name=name,
        source=f"suno/{name}",
        num_parameters=num_parameters,
        size=size,
        licence="MIT",
        sample_rate=24_000,
        num_channels=1,
        abilities=("text", "voices"),
    )


def _load(checkpoint: Checkpoint, settings: LoadSettings) -> "Model":
    """Loads either layout; the original's codec is in the subfolder `codec`, or on the hub."""
    from lm_audio.families.bark.original_layout import CODEC, TEXT_TOKENIZER
    from lm_audio.families.bark.reading import read_bark
    from lm_audio.families.bark.stages import bark
    from lm_audio.model import Model, ModelCard
    from lm_audio.renderers.codec import CodecRenderer
    from lm_audio.saving.files import stated_licence
    from lm_audio.saving.folder import DTYPES

    beside = checkpoint.folder / "codec"
    parts = read_bark(
        checkpoint.folder,
        hub_id=checkpoint.hub_id,
        codec=beside if beside.is_dir() else CODEC,
        text_tokenizer=settings.text_encoder or TEXT_TOKENIZER,
        device=settings.device,
        dtype=DTYPES[settings.dtype],
    )
    renderer = CodecRenderer(parts.codec, num_codebooks=parts.settings.fine_codebooks)
    card = ModelCard(licence=stated_licence(checkpoint.folder))
    return Model(bark(parts), renderer, card=card)


def _holds_original(folder: Path) -> bool:
    from lm_audio.families.bark.original_layout import holds_original_bark

    return holds_original_bark(folder)


FAMILY = Family(
    models=(
        _bark("bark", 1_085_739_008, size=4_490_000_000),
        _bark("bark-small", 389_557_248, size=1_680_000_000),
    ),
    formats=(
        Format(name="bark", model_type="bark", load=_load),
        Format(
            name="bark-original",
            holds=_holds_original,
            files=TORCH_FILES,
            load=_load,
            lacks_text_encoder=True,
        ),
    ),
)
