"""Duet's two stages: text to semantic tokens, then text and semantic tokens to acoustic ones."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lm_audio.families.duet.stages import KEPT_SHARE, duet
from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.saving.stage_folder import read_stage
from lm_audio.signals import SEMANTIC
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.text import chosen_text
from stage_builders.plan import (
    VOCABULARY,
    StageData,
    StagePlan,
    StageSettings,
    model_after_semantic,
    new_weights,
    with_context,
)

READERS = {  # text encoders that are trained with a stage
    "tiny": TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    "default": presets.compact(dim=128, num_layers=3, reads=True),
    "small": presets.compact(dim=256, num_layers=4, reads=True),
    "paper": presets.compact(dim=512, num_layers=6, reads=True),
}
SEMANTIC_SHAPES = {
    "tiny": presets.tiny().transformer,
    "default": presets.compact(dim=256, num_layers=5, dropout=0.2),
    "small": presets.compact(dim=512, num_layers=8),
    "paper": presets.audiolm(vocab_size=1, cross_attention=True).transformer,
}
ACOUSTIC_SHAPES = {
    "tiny": presets.tiny().transformer,
    "default": presets.compact(dim=256, num_layers=6, dropout=0.0),
    "small": presets.compact(dim=512, num_layers=8),
    "paper": presets.medium().transformer,
}


@dataclass(frozen=True, kw_only=True)
class _DuetSettings(StageSettings):
    family: Literal["duet"] = "duet"
    t5: str | None = None
    """Folder or hub id of a T5 that encodes the captions. By default a small text encoder is
    trained with the stage."""
    text_encoder: Path | None = None
    """Folder of an encoder from recipes/train_text_encoder.py for the captions; stays frozen."""
    text_dropout: float = 0.1
    """Share of examples that drop the text, for classifier-free guidance."""


@dataclass(frozen=True, kw_only=True)
class DuetSemanticSettings(_DuetSettings):
    stage: Literal["semantic"] = "semantic"
    out: Path = Path("runs/semantic")
    context_seconds: float = 30.0
    acoustic: Path | None = None
    """Output folder of a trained acoustic stage, to log samples as audio."""


@dataclass(frozen=True, kw_only=True)
class DuetAcousticSettings(_DuetSettings):
    stage: Literal["acoustic"] = "acoustic"
    out: Path = Path("runs/acoustic")
    semantic: Path | None = None
    """Output folder of a trained semantic stage; also writes a complete model."""
    semantic_tokenizer: Path | None = None
    """Folder of the semantic tokenizer to store in the model, so that it can continue audio."""
    semantic_dropout: float = 0.05
    """Share of examples that drop the semantic tokens."""


def duet_semantic(settings: DuetSemanticSettings, data: StageData) -> StagePlan:
    stage, _ = _stages(settings, data, semantic=SEMANTIC_SHAPES[settings.preset])
    stage = with_context(stage, settings.context_seconds)
    renderer, following = CodecRenderer(data.codec), None
    if settings.acoustic is not None and not settings.dry_run:
        tokens = data.shards.identities | {"acoustic": data.codec.identity}
        following = read_stage(settings.acoustic / "stage", tokens=tokens, device=data.device)
        renderer = CodecRenderer(data.codec, num_codebooks=following.num_codebooks)
        Model([stage, following], renderer)  # raises unless they fit
    return StagePlan(
        stage=stage,
        dropout=Dropout(joint=settings.text_dropout),
        renderer=renderer,
        following=following,
        next_stage="acoustic",
    )


def duet_acoustic(settings: DuetAcousticSettings, data: StageData) -> StagePlan:
    acoustic = data.acoustic_stream()
    source, stage = _stages(settings, data, acoustic=ACOUSTIC_SHAPES[settings.preset])
    context = int(settings.context_seconds * acoustic.rate)
    stage = replace(stage, window_frames=context, overlap_frames=context // KEPT_SHARE)
    renderer = CodecRenderer(data.codec, num_codebooks=acoustic.num_codebooks)
    model = model_after_semantic(
        stage,
        data,
        renderer,
        semantic=settings.semantic,
        semantic_tokenizer=settings.semantic_tokenizer,
        dry_run=settings.dry_run,
    )
    dropout = Dropout(joint=settings.text_dropout, each={"semantic": settings.semantic_dropout})
    return StagePlan(stage=stage, source=source, dropout=dropout, renderer=renderer, model=model)


def _stages(
    settings: _DuetSettings,
    data: StageData,
    *,
    semantic: TransformerConfig | None = None,
    acoustic: TransformerConfig | None = None,
) -> list[LMStage]:
    """Both stages with new weights; a stage without a shape is a tiny placeholder."""
    text = chosen_text(
        data.shards,
        READERS[settings.preset],
        vocab_size=VOCABULARY,
        t5=settings.t5,
        text_encoder=settings.text_encoder,
    )
    from_stream = data.stream(SEMANTIC)
    num_codebooks, codebook_size, frame_rate = 1, 2, from_stream.rate
    if acoustic is not None:
        stream = data.acoustic_stream()
        num_codebooks, codebook_size = stream.num_codebooks, stream.vocabulary
        frame_rate = stream.rate
    tiny = presets.tiny().transformer
    with new_weights(settings):
        return duet(
            semantic=semantic or tiny,
            acoustic=acoustic or tiny,
            text=text,
            num_semantic_tokens=from_stream.vocabulary,
            semantic_rate=from_stream.rate,
            num_codebooks=num_codebooks,
            codebook_size=codebook_size,
            frame_rate=frame_rate,
        )
