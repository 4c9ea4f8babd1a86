"""AudioLM's three stages: semantic tokens, then coarse, then fine acoustic ones. No text."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from lm_audio.data.shards import Shards, Stream
from lm_audio.families.audiolm.stages import RENDERED, audiolm
from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.signals import SEMANTIC
from stage_builders.plan import (
    StageData,
    StagePlan,
    StageSettings,
    new_weights,
    whole_model,
    with_context,
)

MAX_MEASURED = 10_000  # examples, for the rate of tokens without repeats
SHAPES = {
    "tiny": presets.tiny(cross_attention=False).transformer,
    "default": replace(presets.compact(dim=256, num_layers=5, dropout=0.2), cross_attention=False),
    "small": replace(presets.compact(dim=512, num_layers=8), cross_attention=False),
    "paper": presets.audiolm(vocab_size=1).transformer,
}


@dataclass(frozen=True, kw_only=True)
class AudioLMSemanticSettings(StageSettings):
    family: Literal["audiolm"] = "audiolm"
    stage: Literal["semantic"] = "semantic"
    out: Path = Path("runs/semantic")
    context_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class AudioLMCoarseSettings(StageSettings):
    family: Literal["audiolm"] = "audiolm"
    stage: Literal["coarse"] = "coarse"
    out: Path = Path("runs/coarse")
    num_coarse: int = 4
    """Number of coarse codebooks; the fine stage predicts the rest."""


@dataclass(frozen=True, kw_only=True)
class AudioLMFineSettings(StageSettings):
    family: Literal["audiolm"] = "audiolm"
    stage: Literal["fine"] = "fine"
    out: Path = Path("runs/fine")
    context_seconds: float = 3.0
    num_coarse: int = 4
    """Number of coarse codebooks; this stage predicts the rest."""
    semantic: Path | None = None
    """Output folder of a trained semantic stage; with --coarse, also writes a complete model."""
    coarse: Path | None = None
    """Output folder of a trained coarse stage; with --semantic, also writes a complete model."""
    semantic_tokenizer: Path | None = None
    """Folder of the semantic tokenizer to store in the model, so that it can continue audio."""


def audiolm_semantic(settings: AudioLMSemanticSettings, data: StageData) -> StagePlan:
    semantic = data.stream(SEMANTIC)
    rate = rate_without_repeats(data.shards)
    with new_weights(settings):
        stage, _, _ = audiolm(
            SHAPES[settings.preset],
            num_semantic_tokens=semantic.vocabulary,
            semantic_rate=rate,
            num_coarse=1,  # the other stages are unused, so make them small
            num_fine=1,
            codebook_size=2,
            frame_rate=semantic.rate,
        )
    return StagePlan(
        stage=with_context(stage, settings.context_seconds),
        renderer=CodecRenderer(data.codec),
        next_stage="coarse",
    )


def audiolm_coarse(settings: AudioLMCoarseSettings, data: StageData) -> StagePlan:
    source, stage, _ = _stages(settings, data, semantic=data.stream(SEMANTIC))
    return StagePlan(
        stage=with_context(stage, settings.context_seconds),
        source=source,
        renderer=CodecRenderer(data.codec, num_codebooks=settings.num_coarse),
        next_stage="fine",
    )


def audiolm_fine(settings: AudioLMFineSettings, data: StageData) -> StagePlan:
    _, source, stage = _stages(settings, data)
    stage = with_context(stage, settings.context_seconds)
    num_codebooks = data.acoustic_stream().num_codebooks
    renderer = CodecRenderer(data.codec, num_codebooks=num_codebooks)
    model = _model(settings, data, stage, renderer)
    return StagePlan(stage=stage, source=source, renderer=renderer, model=model)


def rate_without_repeats(shards: Shards) -> Fraction:
    """The average number of semantic tokens per second without repeats."""
    every = range(0, len(shards), -(-len(shards) // MAX_MEASURED))
    tokens = [shards.read(index, SEMANTIC) for index in every]
    left = sum(torch.unique_consecutive(row, dim=1).shape[1] for row in tokens)
    share = Fraction(left, max(1, sum(row.shape[1] for row in tokens)))
    return (shards.streams[SEMANTIC].rate * share).limit_denominator(1000)


def _stages(
    settings: AudioLMCoarseSettings | AudioLMFineSettings,
    data: StageData,
    *,
    semantic: Stream | None = None,
) -> list[LMStage]:
    """All three stages with new weights; without `semantic`, the first is a tiny placeholder."""
    acoustic, num_coarse = data.acoustic_stream(), settings.num_coarse
    if not 1 <= num_coarse < acoustic.num_codebooks:
        raise ValueError(
            f"--num-coarse must be from 1 to {acoustic.num_codebooks - 1}, since the shards have "
            f"{acoustic.num_codebooks} codebooks, got {num_coarse}."
        )
    with new_weights(settings):
        return audiolm(
            SHAPES[settings.preset],
            num_semantic_tokens=1 if semantic is None else semantic.vocabulary,
            semantic_rate=acoustic.rate if semantic is None else semantic.rate,
            num_coarse=num_coarse,
            num_fine=acoustic.num_codebooks - num_coarse,
            codebook_size=acoustic.vocabulary,
            frame_rate=acoustic.rate,
        )


def _model(
    settings: AudioLMFineSettings, data: StageData, stage: LMStage, renderer: CodecRenderer
) -> Model | None:
    """The complete model, if the other two stages are given."""
    if settings.semantic is None or settings.coarse is None:
        if settings.semantic or settings.coarse or settings.semantic_tokenizer:
            raise ValueError(
                "A complete model needs --semantic and --coarse; pass both, or remove --semantic, "
                "--coarse and --semantic-tokenizer."
            )
        return None
    if settings.dry_run:
        return None
    return whole_model(
        stage,
        data,
        renderer,
        earlier=[settings.semantic, settings.coarse],
        semantic_tokenizer=settings.semantic_tokenizer,
        output_stages=RENDERED,
    )
