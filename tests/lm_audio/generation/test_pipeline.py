"""The promises of a pipeline, for each of the compositions."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from lm_audio.clip import Clip
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Sampling


def text_for(pipeline: AudioPipeline, text: str | None) -> str | None:
    return text if "text" in pipeline.conditions else None


def tone(seconds: float, channels: int = 1) -> Tensor:
    time = torch.arange(round(seconds * 24_000)) / 24_000
    loudness = 0.15 + 0.1 * torch.sin(9 * time)
    return (loudness * torch.sin(2765 * time)).expand(channels, -1).contiguous()


def generate(pipeline: AudioPipeline, **settings: object) -> Clip:
    settings.setdefault("duration", 0.7)
    settings.setdefault("seed", 7)
    return pipeline.generate(text_for(pipeline, "rain"), **settings)  # type: ignore[arg-type, return-value]


def test_the_same_seed_gives_the_same_clip_alone_and_in_any_batch(pipeline: AudioPipeline) -> None:
    alone = generate(pipeline)
    assert torch.equal(generate(pipeline).samples, alone.samples)
    assert not torch.equal(generate(pipeline, seed=8).tokens, alone.tokens)
    texts = [text_for(pipeline, text) for text in ("a violin", "rain", None, "a dog barking")]
    batch = pipeline.generate(texts, duration=[0.31, 0.7, 1.4, 0.7], seed=[1, 7, 2, 3])
    assert torch.equal(batch[1].samples, alone.samples)
    assert torch.equal(batch[1].tokens, alone.tokens)
    for clip in batch:
        again = pipeline.generate(texts[batch.index(clip)], duration=clip.duration, seed=clip.seed)
        assert torch.equal(again.samples, clip.samples)


def test_streamed_sound_is_the_whole_clip_in_pieces(pipeline: AudioPipeline) -> None:
    clip = generate(pipeline, duration=2.03)
    pieces = list(pipeline.stream(text_for(pipeline, "rain"), duration=2.03, seed=7))
    assert len(pieces) > 1
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_our_stream_starts_long_before_the_clip_is_done(duet_mono: AudioPipeline) -> None:
    stream = duet_mono.stream("rain", duration=4.0, seed=7)
    runs = {}
    start = duet_mono.start

    def watch(*arguments: object) -> object:
        making = start(*arguments)  # type: ignore[arg-type]
        runs.update(making.tracks)
        return making

    duet_mono.start = watch  # type: ignore[method-assign, assignment]
    try:
        stream = duet_mono.stream("rain", duration=4.0, seed=7)
        next(stream)
    finally:
        del duet_mono.start  # type: ignore[method-assign]
    assert runs["acoustic"].num_done < 80  # of 200; loudness looks ahead by a second
    assert runs["semantic"].num_done < 50  # of 100: the look-ahead, not the whole


@pytest.mark.parametrize("num_samples", [1, 479, 480, 24_001, 31_237])
def test_the_duration_is_exact_to_the_sample(
    audiogen_mono: AudioPipeline, num_samples: int
) -> None:
    clip = generate(audiogen_mono, duration=num_samples / 24_000)
    assert clip.samples.shape == (1, num_samples)
    assert clip.tokens.shape == (4, -(-num_samples // 480))


def test_a_clip_beyond_the_context_is_made_in_windows_that_overlap(
    audiogen_mono: AudioPipeline,
) -> None:
    clip = generate(audiogen_mono, duration=7.0)  # the model sees 2 s
    assert clip.samples.shape == (1, 7 * 24_000)
    start = generate(audiogen_mono, duration=2.0)
    assert torch.equal(clip.tokens[:, :100], start.tokens)
    assert torch.equal(
        torch.cat(list(audiogen_mono.stream("rain", duration=7.0, seed=7)), 1), clip.samples
    )


def test_a_continuation_begins_with_the_prompts_own_samples(pipeline: AudioPipeline) -> None:
    prompt = tone(1.013)
    clip = pipeline.continue_from((prompt, 24_000), duration=0.6, seed=3)
    assert clip.samples.shape == (1, prompt.shape[1] + 14_400)
    assert torch.equal(clip.samples[:, : prompt.shape[1]], prompt)
    tokens = pipeline.renderer.encoder.encode(prompt)[:, :50]
    assert torch.equal(clip.tokens[:, :50], tokens)
    other = pipeline.continue_from((-0.5 * prompt, 24_000), duration=0.6, seed=3)
    assert not torch.equal(other.tokens[:, 51:], clip.tokens[:, 51:])  # it listens to the prompt


def test_prompts_come_from_files_clips_and_samples_alike(
    duet_mono: AudioPipeline, tmp_path: Path
) -> None:
    first = generate(duet_mono)
    path = tmp_path / "prompt.wav"
    write_audio(path, first.samples, 24_000, encoding="float")
    ways = [path, str(path), first, (first.samples, 24_000)]
    clips = duet_mono.continue_from(ways, duration=0.3, text="a violin", seed=4)
    for clip in clips:
        assert torch.equal(clip.samples, clips[0].samples)


def test_a_batch_of_continuations_mixes_lengths(duet_mono: AudioPipeline) -> None:
    prompts = [(tone(0.3), 24_000), (tone(0.9), 24_000)]
    clips = duet_mono.continue_from(prompts, duration=[0.5, 0.2], text=["rain", None], seed=[1, 2])
    alone = duet_mono.continue_from(prompts[1], duration=0.2, seed=2)
    assert torch.equal(clips[1].samples, alone.samples)
    assert [clip.samples.shape[1] for clip in clips] == [19_200, 26_400]


def test_a_prompt_longer_than_the_context_is_kept_whole(audiogen_mono: AudioPipeline) -> None:
    prompt = tone(5.3)  # the model sees 2 s
    clip = audiogen_mono.continue_from((prompt, 24_000), duration=0.5, seed=3, raw=True)
    assert torch.equal(clip.samples[:, : prompt.shape[1]], prompt)
    assert clip.samples.shape[1] == prompt.shape[1] + 12_000
    tail = audiogen_mono.continue_from(
        (prompt[:, -48_000:], 24_000), duration=0.5, seed=3, raw=True
    )
    assert torch.equal(tail.samples[:, 48_000:], clip.samples[:, prompt.shape[1] :])


def test_inpainting_keeps_all_samples_outside_the_span(pipeline: AudioPipeline) -> None:
    whole = tone(2.0)
    clip = pipeline.inpaint((whole, 24_000), start=0.7, end=1.1, seed=5)
    assert clip.samples.shape == whole.shape
    first, last = 16_800, 26_400
    assert torch.equal(clip.samples[:, :first], whole[:, :first])
    assert torch.equal(clip.samples[:, last:], whole[:, last:])
    assert not torch.equal(clip.samples[:, first:last], whole[:, first:last])
    again = pipeline.inpaint((whole, 24_000), start=0.7, end=1.1, seed=5)
    assert torch.equal(again.samples, clip.samples)


def test_inpainting_keeps_the_filling_that_the_right_context_follows_best(
    audiogen_mono: AudioPipeline,
) -> None:
    audio = (tone(1.6), 24_000)
    (stage,) = audiogen_mono.stages.values()
    judged = []
    likelihood = type(stage).likelihood

    def watch(self: object, run: object, first: int, last: int) -> float:
        judged.append((likelihood(self, run, first, last), run.values))  # type: ignore[arg-type, attr-defined]
        return judged[-1][0]

    type(stage).likelihood = watch  # type: ignore[method-assign]
    try:
        clip = audiogen_mono.inpaint(audio, start=0.5, end=1.0, seed=5, num_candidates=5)
    finally:
        type(stage).likelihood = likelihood  # type: ignore[method-assign]
    assert len({round(score, 6) for score, _ in judged}) == 5
    best = max(judged, key=lambda pair: pair[0])[1]
    assert torch.equal(clip.tokens, best)


def test_a_span_at_the_end_and_one_longer_than_the_context_are_filled(
    audiogen_mono: AudioPipeline,
) -> None:
    whole = tone(6.0)
    for start, end in ((5.0, 6.0), (0.0, 0.5), (1.0, 5.0)):
        clip = audiogen_mono.inpaint(
            (whole, 24_000), start=start, end=end, seed=5, num_candidates=2
        )
        first, last = round(start * 24_000), round(end * 24_000)
        assert torch.equal(clip.samples[:, :first], whole[:, :first])
        assert torch.equal(clip.samples[:, last:], whole[:, last:])
        assert clip.samples.shape == whole.shape


@pytest.mark.parametrize("composition", ["duet", "audiogen"])
def test_stereo_comes_out_of_interleaved_codebooks(
    composition: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(f"make_{composition}")(2)
    clip = pipeline.generate("rain", duration=0.5, seed=1, raw=True)
    assert clip.samples.shape == (2, 12_000)
    assert clip.tokens.shape == (8, 25)
    assert not torch.equal(clip.samples[0], clip.samples[1])
    left = pipeline.renderer.codec.decode(clip.tokens[None, ::2], num_samples=12_000)
    torch.testing.assert_close(left[0], clip.samples[:1])
    more = pipeline.continue_from(clip, duration=0.25, seed=2)
    assert torch.equal(more.samples[:, :12_000], clip.samples)


def test_everything_given_changes_what_is_made(duet_mono: AudioPipeline) -> None:
    common = {"duration": 0.6, "seed": 7}
    clips = [
        duet_mono.generate("rain", **common),
        duet_mono.generate("a violin", **common),
        duet_mono.generate(**common),
        duet_mono.generate("rain", negative="a violin", **common),
        duet_mono.generate("rain", sampling=Sampling(guidance_scale=1.0), **common),
        duet_mono.generate("rain", sampling={"semantic": Sampling(temperature=3.0)}, **common),
        duet_mono.generate("rain", sampling=Sampling(guidance_scale={"text": 2.0}), **common),
        duet_mono.generate(
            "rain", sampling={"acoustic": Sampling(guidance_scale={"text": 3.0, "semantic": 2.0})},
            **common,
        ),
        duet_mono.generate("rain", sampling=Sampling(repetition_penalty=1.5), **common),
        duet_mono.generate(
            "rain", sampling=Sampling(guidance_schedule=((0.0, 1.0), (0.5, 0.0))), **common
        ),
    ]  # fmt: skip
    for i, j in itertools.combinations(range(len(clips)), 2):
        assert not torch.equal(clips[i].tokens, clips[j].tokens), (i, j)


def test_semantic_tokens_of_a_clip_can_be_spoken_anew(audiolm_mono: AudioPipeline) -> None:
    first = generate(audiolm_mono)
    semantic = first.stage_values["semantic"]
    assert (semantic[:, 1:] != semantic[:, :-1]).all()  # de-duplicated
    other = generate(audiolm_mono, seed=8, tokens={"semantic": semantic})
    assert torch.equal(other.stage_values["semantic"], semantic)
    assert not torch.equal(other.tokens, first.tokens)
    again = generate(audiolm_mono, seed=7, tokens={"semantic": semantic})
    assert torch.equal(again.tokens, first.tokens)
    assert torch.equal(
        first.tokens, torch.cat([first.stage_values["coarse"], first.stage_values["fine"]])
    )


def test_two_passes_for_guidance_give_the_same_tokens(duet_mono: AudioPipeline) -> None:
    assert torch.equal(generate(duet_mono, rows_per_pass=1).tokens, generate(duet_mono).tokens)


def test_progress_rises_to_one(pipeline: AudioPipeline) -> None:
    seen: list[float] = []
    generate(pipeline, duration=0.2, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_more_clips_than_fit_at_once_all_come_out(audiogen_mono: AudioPipeline) -> None:
    seeds = list(range(40))
    clips = audiogen_mono.generate("rain", duration=0.06, seed=seeds)
    assert [clip.seed for clip in clips] == seeds
    alone = audiogen_mono.generate("rain", duration=0.06, seed=39)
    assert torch.equal(clips[39].samples, alone.samples)


def test_a_seed_is_drawn_and_told_when_none_is_given(audiogen_mono: AudioPipeline) -> None:
    clip = audiogen_mono.generate("rain", duration=0.1)
    again = audiogen_mono.generate("rain", duration=0.1, seed=clip.seed)
    assert torch.equal(clip.tokens, again.tokens)
    assert audiogen_mono.generate("rain", duration=0.1).seed != clip.seed


AUDIO = (torch.zeros(1, 24_000), 24_000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.generate("thunder"), "Unknown label 'thunder'"),
        (
            lambda p: p.generate("rain", duration=0),
            "duration must be above 0 and at most 86400 seconds, got 0",
        ),
        (lambda p: p.generate("rain", duration=float("nan")), "seconds, got nan"),
        (lambda p: p.generate("rain", duration=1e300), "seconds, got 1e+300"),
        (lambda p: p.generate("rain", seed=-1), "at least 0, got -1"),
        (lambda p: p.generate("rain", conditions={"text": "wind"}), "Pass text as the prompt"),
        (lambda p: p.generate(["rain"], duration=[1.0, 2.0]), "got 1 prompts, 2 durations"),
        (lambda p: p.generate([]), "got 0 prompts"),
        (
            lambda p: p.generate("rain", conditions={"mood": "sad"}),
            "no condition 'mood'. It accepts: text",
        ),
        (lambda p: p.generate("rain", sampling={"fine": Sampling()}), "Unknown stage 'fine'"),
        (lambda p: p.generate("rain", tokens={"x": torch.zeros(1)}), "Unknown stage 'x'"),
        (
            lambda p: p.generate("rain", tokens={"semantic": torch.zeros(1, 7).long()}),
            "[1, 125], int64, for this duration",
        ),
        (
            lambda p: p.generate("rain", negative="dog", sampling=Sampling(guidance_scale=1.0)),
            "no effect without guidance: the guidance scale of text is 1",
        ),
        (
            lambda p: p.generate("rain", sampling=Sampling(guidance_scale={"mood": 2.0})),
            "the semantic stage does not have: mood",
        ),
        (
            lambda p: p.generate("rain", sampling=Sampling(temperature=(1.0, 0.9))),
            "Expected one temperature for the semantic stage, or 1",
        ),
        (lambda p: p.continue_from("no.wav"), "no.wav"),
        (lambda p: p.continue_from((torch.zeros(24_000), 24_000)), "Expected samples [C, N]"),
        (lambda p: p.inpaint(AUDIO, start=0.5, end=0.5), "got 0.5 to 0.5 s"),
        (lambda p: p.inpaint(AUDIO, start=0.5, end=2.0), "within the 1.00 s of the audio"),
        (
            lambda p: p.inpaint(AUDIO, start=0, end=1, num_candidates=0),
            "num_candidates must be at least 1, got 0",
        ),
    ],
)
def test_mistakes_get_one_clear_sentence(
    duet_mono: AudioPipeline, call: object, message: str
) -> None:
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        call(duet_mono)  # type: ignore[operator]


def test_a_stream_tells_mistakes_before_its_first_piece(duet_mono: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="seconds, got -1"):
        duet_mono.stream("rain", duration=-1)


def test_a_model_without_text_or_semantic_tokenizer_says_so(
    audiolm_mono: AudioPipeline, duet_mono: AudioPipeline
) -> None:
    with pytest.raises(ValueError, match=r"no condition .text.. Remove it"):
        audiolm_mono.generate("rain")
    deaf = AudioPipeline(Model(list(duet_mono.stages.values()), duet_mono.renderer))
    with pytest.raises(ValueError, match="has no semantic tokenizer"):
        deaf.continue_from(AUDIO)
