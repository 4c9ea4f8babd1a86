"""Exports a model in the layout of transformers or audiocraft."""

from pathlib import Path
from typing import Any, Literal, get_args

from lm_audio.conditioners.text import TextConditioner
from lm_audio.families.audiocraft.export import write_audiocraft, write_musicgen
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.families.audiocraft.settings import Masking
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.model import Model
from lm_audio.patterns import parallel
from lm_audio.renderers.codec import CodecRenderer

ExportLayout = Literal["transformers", "audiocraft"]


def export_model(
    model: Model,
    folder: str | Path,
    *,
    layout: ExportLayout = "transformers",
    t5_name: str | None = None,
) -> None:
    """Exports a MusicGen- or MAGNeT-shaped model for transformers or audiocraft, atomically.

    Args:
        t5_name: the public T5 of the model, which audiocraft downloads by name.
    """
    if layout not in get_args(ExportLayout):
        raise ValueError(f"Unknown layout {layout!r}. Choose one of: transformers, audiocraft.")
    stages = [stage for stage in model.stages if isinstance(stage, TokenStage)]
    renderer, text = model.renderer, _only_text(stages)
    if len(model.stages) > 1 or text is None or not isinstance(renderer, CodecRenderer):
        names = ", ".join(stage.name for stage in model.stages)
        raise ValueError(
            f"The {layout} layout supports one text-conditioned stage and a codec, got the stages "
            f"{names}. Save it in lm-audio's own format instead."
        )
    (stage,) = stages
    masking = None
    if isinstance(stage, MaskedStage):
        masking = Masking(span=stage.span, reach=stage.reach)
    melody: Any = stage.conditioners["melody"] if "melody" in stage.conditions else None
    parts = MusicGenParts(
        model=stage.model,
        pattern=stage.pattern if isinstance(stage, LMStage) else parallel(stage.num_codebooks),
        text=text,
        melody=melody,
        masking=masking,
        codec=renderer.codec,
        num_channels=renderer.num_channels,
        max_frames=stage.window_frames,
        sampling=stage.sampling,
        t5_name=t5_name,
        licence=model.card.licence,
    )
    (write_musicgen if layout == "transformers" else write_audiocraft)(parts, folder)


def _only_text(stages: list[TokenStage]) -> TextConditioner | None:
    """The text conditioner of the first stage, if it has no other conditions but a melody."""
    with_melody = {"melody": "prepend", "text": "prepend"}
    if not stages or stages[0].conditioners.fuse not in ({"text": "cross"}, with_melody):
        return None
    text = stages[0].conditioners["text"]
    return text if isinstance(text, TextConditioner) else None
