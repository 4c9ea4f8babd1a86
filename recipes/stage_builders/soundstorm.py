"""SoundStorm's stage: semantic tokens to all codebooks in parallel, after a semantic stage.

The stage before it is Duet's semantic stage, with text, or AudioLM's, whose tokens do not repeat.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lm_audio.families.soundstorm.stages import KEPT_SHARE, soundstorm
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.signals import SEMANTIC
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.text import chosen_text
from stage_builders.audiolm import AudioLMSemanticSettings, audiolm_semantic
from stage_builders.duet import READERS, DuetSemanticSettings, duet_semantic
from stage_builders.plan import (
    VOCABULARY,
    StageData,
    StagePlan,
    StageSettings,
    model_after_semantic,
    new_weights,
)

SHAPES = {
    "tiny": presets.tiny().transformer,
    "default": presets.compact(dim=256, num_layers=6, dropout=0.0),
    "small": presets.compact(dim=512, num_layers=8),
    "paper": TransformerConfig(
        dim=1024, num_layers=12, num_heads=16, hidden_dim=4096, cross_attention=True, dropout=0.1
    ),
}


@dataclass(frozen=True, kw_only=True)
class SoundStormSettings(StageSettings):
    family: Literal["soundstorm"] = "soundstorm"
    stage: Literal["acoustic"] = "acoustic"
    out: Path = Path("runs/soundstorm")
    after: Literal["duet", "audiolm"] = "duet"
    """Family of the semantic stage whose tokens the stage follows."""
    t5: str | None = None
    """Folder or hub id of a T5 that encodes the captions, as in the semantic stage."""
    text_encoder: Path | None = None
    """Folder of an encoder from recipes/train_text_encoder.py for the captions; stays frozen."""
    text_dropout: float = 0.1
    """Share of examples that drop the text, for classifier-free guidance."""
    semantic: Path | None = None
    """Output folder of a trained semantic stage; also writes a complete model."""
    semantic_tokenizer: Path | None = None
    """Folder of the semantic tokenizer to store in the model, so that it can continue audio."""


def soundstorm_acoustic(settings: SoundStormSettings, data: StageData) -> StagePlan:
    acoustic, semantic = data.acoustic_stream(), data.stream(SEMANTIC)
    reads = settings.after == "duet"
    text = None
    if reads:
        text = chosen_text(
            data.shards,
            READERS[settings.preset],
            vocab_size=VOCABULARY,
            t5=settings.t5,
            text_encoder=settings.text_encoder,
        )
    elif settings.t5 or settings.text_encoder:
        raise ValueError("AudioLM has no text; leave out --t5 and --text-encoder.")
    shape = replace(SHAPES[settings.preset], causal=False, cross_attention=reads)
    with new_weights(settings):
        stage = soundstorm(
            shape,
            text=text,
            num_semantic_tokens=semantic.vocabulary,
            semantic_rate=semantic.rate,
            deduplicated=not reads,
            num_codebooks=acoustic.num_codebooks,
            codebook_size=acoustic.vocabulary,
            frame_rate=acoustic.rate,
        )
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
    return StagePlan(
        stage=stage,
        source=_source(settings, data),
        dropout=Dropout(joint=settings.text_dropout) if reads else None,
        renderer=renderer,
        model=model,
    )


def _source(settings: SoundStormSettings, data: StageData) -> LMStage:
    """The semantic stage, for what its tokens are; its weights are not used."""
    if settings.after == "audiolm":
        plan = audiolm_semantic(AudioLMSemanticSettings(preset="tiny"), data)
    else:
        plan = duet_semantic(
            DuetSemanticSettings(preset="tiny", t5=settings.t5, text_encoder=settings.text_encoder),
            data,
        )
    assert isinstance(plan.stage, LMStage)
    return plan.stage
