"""Duet's stages: their captions, and what is dropped."""

from lm_audio.conditioners.text import OwnTextEncoder
from stage_builders.duet import (
    DuetAcousticSettings,
    DuetSemanticSettings,
    duet_acoustic,
    duet_semantic,
)
from stage_builders.plan import StageData


def test_the_text_encoder_knows_the_words_of_the_captions(data: StageData) -> None:
    stage = duet_semantic(DuetSemanticSettings(preset="tiny"), data).stage
    encoder = stage.conditioners["text"].encoder
    assert isinstance(encoder, OwnTextEncoder)
    caption = data.shards.conditions[0]["text"][0]
    assert encoder.tokenizer.encode([caption]).tokens.shape[1] < len(caption)


def test_text_and_semantic_tokens_are_dropped_as_often_as_asked(data: StageData) -> None:
    settings = DuetAcousticSettings(preset="tiny", text_dropout=0.3, semantic_dropout=0.2)
    plan = duet_acoustic(settings, data)
    assert plan.dropout is not None
    assert (plan.dropout.joint, plan.dropout.each) == (0.3, {"semantic": 0.2})
    assert plan.source is not None
    assert plan.source.makes.rate * 2 == plan.stage.makes.rate
