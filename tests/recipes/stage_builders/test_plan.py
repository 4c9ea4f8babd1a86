"""What the builders share: the right streams, contexts, and weights that are only counted."""

from dataclasses import replace
from pathlib import Path

import pytest

from stage_builders.duet import DuetSemanticSettings, duet_semantic
from stage_builders.plan import StageData, with_context

TINY = DuetSemanticSettings(preset="tiny")


def test_a_stream_that_is_missing_is_named(data: StageData) -> None:
    assert data.stream("semantic").num_tokens == 64
    with pytest.raises(ValueError, match="The shards have acoustic, semantic but no pitch tokens"):
        data.stream("pitch")


def test_windows_overlap_by_the_same_share_in_any_context(data: StageData) -> None:
    stage = duet_semantic(TINY, data).stage
    short = with_context(stage, 2.0)
    assert short.window_frames == 2 * stage.frame_rate // 1
    assert short.overlap_frames == short.window_frames // 3


def test_a_dry_run_takes_no_memory_and_reads_no_other_stage(data: StageData) -> None:
    settings = replace(TINY, dry_run=True, acoustic=Path("none"))
    plan = duet_semantic(settings, data)
    assert plan.stage.model.heads.weight.is_meta
    assert plan.following is None
    with pytest.raises(ValueError, match=r"No readable stage\.json in .*none/stage"):
        duet_semantic(replace(settings, dry_run=False), data)
