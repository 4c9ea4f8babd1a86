"""Clips beyond the context of their stages, which are cut to a tenth here, to be quick."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Track
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


def test_the_overlap_of_windows_can_be_chosen(audiogen_mono: AudioPipeline) -> None:
    (stage,) = audiogen_mono.stages.values()
    kept = AudioPipeline(Model([replace(stage, overlap_frames=80)], audiogen_mono.renderer))
    expected = kept.generate("rain", duration=4.1, seed=1)
    clip = audiogen_mono.generate("rain", duration=4.1, seed=1, overlap=1.6)
    assert torch.equal(clip.tokens, expected.tokens)
    own = audiogen_mono.generate("rain", duration=4.1, seed=1)
    assert torch.equal(own.tokens[:, :90], clip.tokens[:, :90])  # delays end within the window
    assert not torch.equal(own.tokens, clip.tokens)
    assert torch.equal(
        audiogen_mono.generate("rain", duration=4.1, seed=1, overlap=1.0).tokens, own.tokens
    )
    pieces = list(audiogen_mono.stream("rain", duration=4.1, seed=1, overlap=1.6))
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)
    more, other = (
        model.continue_from(clip, duration=2.0, text="rain", seed=2, **settings)
        for model, settings in ((kept, {}), (audiogen_mono, {"overlap": 1.6}))
    )
    assert torch.equal(more.samples, other.samples)


def test_windows_move_by_what_they_do_not_keep(audiogen_mono: AudioPipeline) -> None:
    (stage,) = audiogen_mono.stages.values()
    assert isinstance(stage, LMStage)
    stage = replace(stage, window_frames=500, overlap_frames=200)
    track = Track(
        values=torch.full((stage.num_codebooks, 900), -1),
        seed=0,
        sampling=stage.sampling,
        overlap_frames=400,  # AudioGen's 8 of 10 s
    )
    starts = []
    while not track.done:
        window = stage.window(track)
        starts.append(window.start)
        track.num_done = window.stop
    assert starts == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("overlap", [-1, 2.0, float("nan"), "1"])
def test_an_overlap_must_be_shorter_than_a_window(
    overlap: object, audiogen_mono: AudioPipeline
) -> None:
    with pytest.raises(ValueError, match=r"overlap must be from 0 to 1\.98 seconds, got"):
        audiogen_mono.generate("rain", duration=0.1, overlap=overlap)  # type: ignore[call-overload]


def test_an_overlap_without_effect_is_refused(audiogen_mono: AudioPipeline) -> None:
    (stage,) = audiogen_mono.stages.values()
    apart = AudioPipeline(Model([replace(stage, overlap_frames=0)], audiogen_mono.renderer))
    with pytest.raises(ValueError, match="The windows of this model do not overlap; leave out ove"):
        apart.generate("rain", duration=0.1, overlap=1.0)
