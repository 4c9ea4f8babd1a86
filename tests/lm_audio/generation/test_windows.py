"""Clips beyond the context of their stages, which are cut to a tenth here, to be quick."""

from collections.abc import Callable
from dataclasses import replace

import torch

from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline


def short_sighted(pipeline: AudioPipeline) -> AudioPipeline:
    """The same, with windows of a tenth: 3 s instead of 30 s."""
    stages = [stage for stage in pipeline.stages.values() if isinstance(stage, LMStage)]
    return AudioPipeline(
        Model(
            [
                replace(
                    one,
                    window_frames=one.window_frames // 10,
                    overlap_frames=one.overlap_frames // 10,
                )
                for one in stages
            ],
            pipeline.renderer,
            output_stages=pipeline.model.output_stages,
            semantic_tokenizer=pipeline.semantic_tokenizer,
        )
    )


def test_audiolm_goes_on_beyond_the_windows_of_all_stages(audiolm_mono: AudioPipeline) -> None:
    model = short_sighted(audiolm_mono)  # 3 s, 1 s, 0.3 s
    clip, start = (model.generate(duration=seconds, seed=1) for seconds in (4.1, 0.3))
    assert clip.samples.shape == (1, 98_400)  # type: ignore[union-attr]
    semantic = clip.stage_values["semantic"]  # type: ignore[union-attr]
    assert semantic.shape == (1, 82)
    assert (semantic[:, 1:] != semantic[:, :-1]).all()
    first = start.stage_values["semantic"]  # type: ignore[union-attr]
    assert torch.equal(first, semantic[:, : first.shape[1]])
    pieces = list(model.stream(duration=4.1, seed=1))
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)  # type: ignore[union-attr]


def test_ours_in_stereo_goes_on_beyond_its_windows(
    make_duet: Callable[..., AudioPipeline],
) -> None:
    model = short_sighted(make_duet(2))
    clip, start = (model.generate("rain", duration=seconds, seed=1) for seconds in (4.5, 2.0))
    assert clip.samples.shape == (2, 108_000)  # type: ignore[union-attr]
    before_look_ahead = slice(0, 93)  # 3 steps of delay and 2 semantic tokens before the end
    for one, other in zip(clip.tokens, start.tokens, strict=True):  # type: ignore[union-attr]
        assert torch.equal(one[before_look_ahead], other[before_look_ahead])
    assert not torch.equal(*clip.samples[:, -24_000:])  # type: ignore[union-attr]
    pieces = list(model.stream("rain", duration=4.5, seed=1))
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)  # type: ignore[union-attr]
