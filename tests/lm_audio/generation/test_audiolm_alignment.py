"""De-duplicated semantic tokens stand where their sound does, in prompts, windows and fillings."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.clip_job import make_tracks
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.prompt import Prompt
from lm_audio.generation.request import make_requests
from lm_audio.generation.track import Track
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline

RATE, RAW_RATE, NEW_RATE = 24_000, 25, 20  # samples, raw and new semantic tokens in a second


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return ((0.15 + 0.1 * torch.sin(9 * time)) * torch.sin(2765 * time))[None]


def steady(seconds: float) -> Tensor:
    return torch.full((1, round(seconds * RATE)), 0.1)


def read(pipeline: AudioPipeline, samples: Tensor) -> Prompt:
    return pipeline._prompt(samples)


def raw_tokens(pipeline: AudioPipeline, samples: Tensor) -> Tensor:
    """The semantic tokens [T] of samples [1, N]."""
    return read(pipeline, samples).values["semantic"][0]


def continuation(pipeline: AudioPipeline, samples: Tensor, seconds: float) -> Mapping[str, Track]:
    """The runs that continue samples [1, N]."""
    (request,) = make_requests(None, duration=seconds, seed=1, sample_rate=RATE)
    return make_tracks(
        request,
        stages=list(pipeline.stages.values()),
        output_stages=["coarse"],
        renderer=pipeline.renderer,
        num_samples=samples.shape[1] + request.num_samples,
        prompt=read(pipeline, samples),
    )


def semantic_stage(pipeline: AudioPipeline) -> LMStage:
    stage = pipeline.stages["semantic"]
    assert isinstance(stage, LMStage)
    return stage


def coarse_stage(pipeline: AudioPipeline) -> LMStage:
    stage = pipeline.stages["coarse"]
    assert isinstance(stage, LMStage)
    return stage


def test_a_continuation_follows_all_semantic_tokens_of_its_prompt(
    audiolm_mono: AudioPipeline,
) -> None:
    raw = raw_tokens(audiolm_mono, tone(8.0))
    assert len(raw) == 8 * RAW_RATE
    expected = torch.unique_consecutive(raw)
    clip = audiolm_mono.continue_from((tone(8.0), RATE), duration=0.2, seed=1)
    assert isinstance(clip, Clip)
    semantic = clip.stage_values["semantic"][0]
    assert torch.equal(semantic[: len(expected)], expected)
    assert len(semantic) == len(expected) + 0.2 * NEW_RATE


def test_sound_at_the_very_end_of_a_prompt_changes_the_semantic_tokens(
    audiolm_mono: AudioPipeline,
) -> None:
    quiet = tone(8.0)
    quiet[:, round(7.9 * RATE) :] = 0
    loud, soft = (
        continuation(audiolm_mono, samples, 0.2)["semantic"].values[0]
        for samples in (tone(8.0), quiet)
    )
    assert soft[soft >= 0][-1] == 0
    assert loud[loud >= 0][-1] != 0


@pytest.mark.parametrize(("first", "last"), [(6.0, 7.0), (6.01, 6.99), (0.0, 1.0), (7.0, 8.0)])
def test_inpainting_keeps_exactly_the_semantic_tokens_beside_the_span(
    audiolm_mono: AudioPipeline, first: float, last: float
) -> None:
    raw = raw_tokens(audiolm_mono, tone(8.0))
    tokens, starts = read(audiolm_mono, tone(8.0)).around(
        semantic_stage(audiolm_mono),
        audiolm_mono.renderer,
        first=round(first * RATE),
        last=round(last * RATE),
    )
    start, stop = math.floor(first * RAW_RATE), math.ceil(last * RAW_RATE)
    before, after = torch.unique_consecutive(raw[:start]), torch.unique_consecutive(raw[stop:])
    span = torch.full((NEW_RATE * (stop - start) // RAW_RATE,), -1)
    assert torch.equal(tokens[0], torch.cat([before, span, after]))
    assert starts is not None
    assert starts == sorted(set(starts))
    assert starts[0] == 0
    assert starts[len(before)] == start / RAW_RATE
    if len(after):
        assert starts[-len(after)] == stop / RAW_RATE


def test_windows_behind_a_steady_prompt_get_the_semantic_tokens_of_their_time(
    audiolm_mono: AudioPipeline,
) -> None:
    runs = continuation(audiolm_mono, steady(12.0), 12.0)
    coarse, stage, semantic = runs["coarse"], coarse_stage(audiolm_mono), runs["semantic"]
    assert semantic.num_frames == 1 + 12 * NEW_RATE  # twelve steady seconds are one token
    windows = []
    while coarse.num_done < coarse.num_frames:
        window = stage.window(coarse)
        windows.append((window.start, window.stop))
        coarse.num_done = window.stop
    assert windows == [(350, 850), (700, 1200)]  # 7 to 17 s and 14 to 24 s
    spans = [stage.source_span(coarse, *window) for window in windows]
    assert spans == [(0, 1 + 5 * NEW_RATE), (1 + 2 * NEW_RATE, 1 + 12 * NEW_RATE)]


def test_a_window_waits_for_its_own_semantic_tokens_and_follows_no_others(
    audiolm_mono: AudioPipeline,
) -> None:
    runs = continuation(audiolm_mono, steady(12.0), 12.0)
    semantic, stage = runs["semantic"], coarse_stage(audiolm_mono)
    window = stage.window(runs["coarse"])
    needed = 1 + 5 * NEW_RATE
    semantic.values[0, 1:] = torch.arange(1, semantic.num_frames) % 7 + 20
    semantic.num_done = needed - 1
    assert not stage.ready(window)
    semantic.num_done = needed
    assert stage.ready(window)
    stage.open(window)
    prepend = window.rows[0].fused.prepend
    assert prepend is not None
    assert prepend.embeddings.shape[1] == needed


def test_windows_of_a_lively_prompt_get_the_tokens_that_sound_in_them(
    audiolm_mono: AudioPipeline,
) -> None:
    samples = torch.cat([steady(3.0), tone(5.0)], dim=1)
    runs = continuation(audiolm_mono, samples, 1.0)
    merged = torch.unique_consecutive(raw_tokens(audiolm_mono, samples), return_inverse=True)[1]
    stage = coarse_stage(audiolm_mono)
    for start, stop in [(0, 1), (0, 100), (149, 151), (150, 400), (201, 333), (350, 351)]:
        heard = merged[start // 2 : -(-stop // 2)]  # two coarse frames last as long as a raw token
        span = stage.source_span(runs["coarse"], start, stop)
        assert span == (int(heard[0]), int(heard[-1]) + 1), (start, stop)
    new = runs["semantic"].num_frames - NEW_RATE
    assert stage.source_span(runs["coarse"], 410, 450) == (new + 4, new + NEW_RATE)


def test_windows_over_a_filling_get_the_tokens_before_in_and_behind_it(
    audiolm_mono: AudioPipeline,
) -> None:
    samples = torch.cat([steady(4.0), tone(4.0)], dim=1)
    prompt, stage = read(audiolm_mono, samples), coarse_stage(audiolm_mono)
    place = {"first": round(3.0 * RATE), "last": round(4.0 * RATE)}
    semantic = semantic_stage(audiolm_mono)
    tokens, starts = prompt.around(semantic, audiolm_mono.renderer, **place)
    sampling = semantic.sampling
    source = Track(values=tokens, starts=starts, seed=1, sampling=sampling)
    coarse, none = prompt.around(stage, audiolm_mono.renderer, **place)
    assert none is None
    run = Track(values=coarse, seed=1, sampling=sampling, source=source)
    assert stage.source_span(run, 0, 150) == (0, 1)
    assert stage.source_span(run, 150, 200) == (1, 1 + NEW_RATE)
    assert stage.source_span(run, 200, 400) == (1 + NEW_RATE, source.num_frames)
    assert stage.source_span(run, 175, 201) == (1 + NEW_RATE // 2, 2 + NEW_RATE)


@pytest.mark.parametrize("num_candidates", [1, 2])
def test_a_filling_never_ends_with_the_token_that_follows_it(
    audiolm_mono: AudioPipeline, num_candidates: int
) -> None:
    semantic, *others = audiolm_mono.stages.values()
    assert isinstance(semantic, LMStage)
    pipeline = AudioPipeline(
        Model(  # between silences, with two tokens, none twice: always 1 0 ... 1 0
            [replace(semantic, num_choices=2), *others],
            audiolm_mono.renderer,
            output_stages=audiolm_mono.model.output_stages,
            semantic_tokenizer=audiolm_mono.semantic_tokenizer,
        )
    )
    silence = (torch.zeros(1, RATE), RATE)
    clip = pipeline.inpaint(silence, start=0.4, end=0.6, seed=1, num_candidates=num_candidates)
    assert clip.stage_values["semantic"].tolist() == [[0, 1, 0, 1, 0]]


def test_all_of_a_clip_made_anew_gets_as_many_tokens_as_its_time(
    audiolm_mono: AudioPipeline,
) -> None:
    clip = audiolm_mono.inpaint((tone(0.5), RATE), start=0.0, end=0.5, seed=1)
    assert clip.stage_values["semantic"].shape == (1, -(-13 * NEW_RATE // RAW_RATE))
