"""AudioLM's stages: tokens without repeats, and codebooks shared out between coarse and fine."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from lm_audio.data.shards import Shards
from stage_builders.audiolm import (
    AudioLMFineSettings,
    AudioLMSemanticSettings,
    audiolm_fine,
    audiolm_semantic,
    rate_without_repeats,
)
from stage_builders.plan import StageData


def test_the_rate_without_repeats_is_that_of_the_data(data: StageData, token_shards: Path) -> None:
    shards = Shards(token_shards)
    rows = [shards.read(index, "semantic")[0].tolist() for index in range(len(shards))]
    left = sum(len(list(groupby(row))) for row in rows)
    expected = 25 * left / sum(map(len, rows))
    assert 1 < expected < 24
    assert float(rate_without_repeats(shards)) == pytest.approx(expected, rel=1e-3)
    settings = AudioLMSemanticSettings(preset="tiny", context_seconds=30.0)
    stage = audiolm_semantic(settings, replace(data, shards=shards)).stage
    assert stage.window_frames == pytest.approx(30 * expected, abs=1)
    assert stage.overlap_frames == stage.window_frames // 2


def test_coarse_and_fine_share_the_codebooks_of_the_data(data: StageData) -> None:
    plan = audiolm_fine(AudioLMFineSettings(preset="tiny", num_coarse=3), data)
    total = data.codec.num_codebooks
    assert plan.source is not None
    assert (plan.source.num_codebooks, plan.stage.num_codebooks) == (3, total - 3)
    assert plan.renderer.num_codebooks == total
    assert plan.dropout is None
