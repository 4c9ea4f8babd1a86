"""What clients can learn about the served model: its sound, its abilities, its options."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, Field

from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Stage
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import names_of
from lm_audio.server.guard import Limits
from lm_audio.server.wire import Format, SamplingBody
from lm_audio.signals import SEMANTIC


class StageAnswer(BaseModel):
    """A stage and the defaults of its sampling options."""

    name: str
    sampling: dict[str, float | str | None] = Field(
        description="Defaults by option; null where the default differs by codebook or condition."
    )


class LimitsAnswer(BaseModel):
    max_duration: float = Field(description="Seconds of new sound per clip.")
    max_upload: int = Field(description="Bytes per request.")


class ModelAnswer(BaseModel):
    """The served model."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "lm-audio"
    sample_rate: int
    num_channels: int
    licence: str | None
    description: str | None
    abilities: list[str] = Field(
        description="Of: text, story, continue, inpaint, vary, loop, melody, negative, voices, "
        "best of (clips have scores)."
    )
    conditions: list[str]
    voices: list[str]
    stages: list[StageAnswer]
    prompts: dict[str, list[str]] = Field(description="Known prompts by kind of sound.")
    formats: list[Format]
    limits: LimitsAnswer


class ModelsAnswer(BaseModel):
    object: str = "list"
    data: list[ModelAnswer]


def describe(
    pipeline: AudioPipeline, *, name: str, created: int, voices: tuple[str, ...], limits: Limits
) -> ModelAnswer:
    """Describes a model for clients."""
    known = pipeline.card.known
    return ModelAnswer(
        id=name,
        created=created,
        sample_rate=pipeline.sample_rate,
        num_channels=pipeline.num_channels,
        licence=pipeline.card.licence,
        description=pipeline.card.description,
        abilities=_abilities(pipeline, has_voices=bool(voices)),
        conditions=list(pipeline.conditions),
        voices=list(voices),
        stages=_stages(pipeline),
        prompts={} if known is None else {k: list(v) for k, v in known.examples.items()},
        formats=list(get_args(Format)),
        limits=LimitsAnswer(max_duration=limits.max_duration, max_upload=limits.max_upload),
    )


def _abilities(pipeline: AudioPipeline, *, has_voices: bool) -> list[str]:
    stages = pipeline.model.stages
    takes_audio = _takes_audio(pipeline)
    has_text = "text" in pipeline.conditions
    able = {
        "text": has_text,
        "story": has_text and all(_follows_stories(s) for s in stages if "text" in s.conditions),
        "continue": takes_audio,
        "inpaint": takes_audio and all(s.two_sided or isinstance(s, LMStage) for s in stages),
        "vary": takes_audio and pipeline.model.denoises,
        "loop": pipeline.model.denoises,
        "melody": "melody" in pipeline.conditions,
        "negative": has_text and any("guidance_scale" in names_of(s.sampling) for s in stages),
        "voices": has_voices,
        "best of": has_text and pipeline.model.judge is not None,
    }
    return [ability for ability, is_able in able.items() if is_able]


def _follows_stories(stage: Stage) -> bool:
    return not isinstance(stage, LMStage) or stage.follows_stories


def _takes_audio(pipeline: AudioPipeline) -> bool:
    """Whether audio can be encoded as the signals of all stages."""
    made = [stage.makes for stage in pipeline.model.stages if stage.makes.kind != "vector"]
    contents = {signal.content for signal in made} | {pipeline.renderer.signal.content}
    encodable = {pipeline.renderer.signal.content} if pipeline.renderer.encoder else set()
    encodable |= {SEMANTIC} if pipeline.semantic_tokenizer is not None else set()
    return contents <= encodable


def _stages(pipeline: AudioPipeline) -> list[StageAnswer]:
    options = SamplingBody.model_fields
    return [
        StageAnswer(
            name=stage.name,
            sampling={
                option: _single(getattr(stage.sampling, option))
                for option in options
                if option in names_of(stage.sampling)
            },
        )
        for stage in pipeline.model.stages
    ]


def _single(value: Any) -> float | str | None:
    """An option's default; None for a tuple or mapping of different values."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        value = tuple(value.values())
    values = set(value) if isinstance(value, tuple) else {value}
    return float(values.pop()) if len(values) == 1 else None
