"""Audiocraft's stage: the published shape, and labels."""

import pytest

from stage_builders.audiocraft import (
    SHAPES,
    AudiocraftSettings,
    audiocraft_acoustic,
    labels_of,
)
from stage_builders.plan import StageData


def test_the_paper_s_model_has_the_published_shape() -> None:
    shape, _ = SHAPES["paper"]
    assert (shape.dim, shape.num_layers, shape.num_heads) == (1536, 48, 24)


def test_the_labels_of_held_out_examples_are_known_too(data: StageData) -> None:
    plan = audiocraft_acoustic(AudiocraftSettings(preset="tiny", labels=("label",)), data)
    assert plan.stage.conditions == ("text", "label")
    every = [*data.shards.conditions, *data.held_out.conditions]
    assert plan.stage.conditioners["label"].labels == tuple(labels_of(every, "label"))


def test_values_that_are_no_labels_are_refused() -> None:
    conditions = [{"tempo": 90.0, "text": "rain", "key": "C"}]
    assert labels_of(conditions, "key") == ["C"]
    for name in ("tempo", "text", "mood"):
        with pytest.raises(ValueError, match=f"Unknown label '{name}'. The data has: key"):
            labels_of(conditions, name)
