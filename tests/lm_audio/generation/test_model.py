"""Parts that do not fit each other make no model."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Source
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline

Change = Callable[[LMStage, LMStage], list[LMStage]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _semantic, _acoustic: [], "must be unique and non-empty"),
        (lambda semantic, acoustic: [semantic, acoustic, acoustic], "must be unique and non-empty"),
        (lambda semantic, acoustic: [acoustic, semantic], "'semantic', is not an earlier stage"),
        (
            lambda semantic, acoustic: [
                semantic, replace(acoustic, source=Source(stage="x", condition="semantic"))
            ],
            "'x', is not an earlier stage",
        ),
        (
            lambda semantic, acoustic: [semantic, replace(acoustic, frame_rate=Fraction(75))],
            "4 codebooks of 64 tokens at 75 .*renderer, 4 codebooks of 64 tokens at 50",
        ),
        (
            lambda semantic, acoustic: [semantic, replace(acoustic, end_token=63)],
            "of 63 tokens at 50 .*renderer, 4 codebooks of 64 tokens at 50",
        ),
        (
            lambda semantic, acoustic: [replace(semantic, end_token=39), acoustic],
            "The semantic stage has 39 tokens, but the semantic tokenizer has 40",
        ),
    ],
)  # fmt: skip
def test_stages_must_fit(duet_mono: AudioPipeline, change: Change, message: str) -> None:
    stages = change(*duet_mono.stages.values())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        AudioPipeline(
            Model(stages, duet_mono.renderer, semantic_tokenizer=duet_mono.semantic_tokenizer)
        )


@pytest.mark.parametrize(
    ("rendered", "message"),
    [
        (["fine"], "Unknown output stage 'fine'"),
        (["semantic"], "No output stage depends on the acoustic stage"),
    ],
)
def test_what_is_rendered_must_fit(
    duet_mono: AudioPipeline, rendered: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AudioPipeline(
            Model(list(duet_mono.stages.values()), duet_mono.renderer, output_stages=rendered)
        )


def test_a_stage_is_exchanged_for_another_of_its_name(duet_mono: AudioPipeline) -> None:
    model = duet_mono.model
    semantic, acoustic = model.stages
    shorter = replace(semantic, overlap_frames=0)  # type: ignore[type-var]
    changed = model.with_stage(shorter)
    assert changed.stages == (shorter, acoustic)
    assert model.stages == (semantic, acoustic)
    assert changed.semantic_tokenizer is model.semantic_tokenizer
    with pytest.raises(ValueError, match="the input of the renderer"):
        model.with_stage(replace(acoustic, frame_rate=Fraction(75)))  # type: ignore[type-var]
