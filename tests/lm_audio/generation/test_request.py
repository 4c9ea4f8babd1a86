"""Nothing wrong that a user asks for goes by, and nothing that is asked for has no effect."""

import re

import pytest
import torch
from torch import Tensor

from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising, Sampling

AUDIO = (torch.zeros(1, 2_400), 24_000)


def ones(num_codebooks: int, num_frames: int, value: int = 1) -> Tensor:
    return torch.full((num_codebooks, num_frames), value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": {"semantic": [[1, 2]]}}, "as tokens of the semantic stage, got list"),
        (
            {"tokens": {"semantic": ones(1, 3).float()}},
            "got [1, 3], torch.float32",
        ),
        (
            {"tokens": {"semantic": ones(1, 3, 40)}},
            "Tokens for the semantic stage must be between 0 and 39, got 40",
        ),
        ({"tokens": {"semantic": ones(1, 3, -1)}}, "must be between 0 and 39, got -1"),
        ({"tokens": {"semantic": ones(1, 4)}}, "[1, 3], int64, for this duration"),
        ({"tokens": {"semantic": torch.tensor(3)}}, "got [], torch.int64"),
        ({"tokens": ones(1, 3)}, "tokens must be a dict by name, got Tensor"),
        ({"tokens": {"acoustic": ones(4, 5)}}, "text has no effect, because the given tokens"),
        ({"conditions": ["text"]}, "conditions must be a dict by name, got list"),
        ({"sampling": 3}, "sampling must be a Sampling, Unmasking or Denoising, such as"),
        ({"sampling": Denoising()}, "No stage of this model takes a Denoising; pass a Sampling"),
        ({"sampling": {"acoustic": Denoising()}}, "takes a Sampling, got a Denoising"),
        ({"sampling": {"acoustic": 3}}, "by stage name, got 3"),
        ({"negative": ["a violin"]}, "A text prompt must be a string, got ['a violin']"),
        ({"rows_per_pass": 0}, "rows_per_pass must be an integer of at least 1, or None, got 0"),
        ({"rows_per_pass": -1}, "or None, got -1"),
        ({"rows_per_pass": 1.5}, "or None, got 1.5"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        (
            {"sampling": {"semantic": Sampling(temperature=(1.0, 0.5))}},
            "semantic stage, or 1, one per codebook, got 2",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(
    duet_mono: AudioPipeline, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        duet_mono.generate("rain", duration=0.1, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["generate", "stream", "continue_from", "inpaint"])
def test_unknown_settings_are_refused_with_those_that_there_are(
    duet_mono: AudioPipeline, verb: str
) -> None:
    with pytest.raises(
        TypeError, match=rf"{verb}\(\) got an unexpected .* 'temprature'\. .*sampling"
    ):
        getattr(duet_mono, verb)("rain", **SPANS.get(verb, {}), temprature=1.0)


SPANS = {"inpaint": {"start": 0.0, "end": 0.1}}


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(guidance_scale={"text": 1.0}),
        Sampling(guidance_scale={}),
        Sampling(guidance_schedule=((0.0, 0.0),)),
        Sampling(guidance_schedule=((0.5, 0.0), (0.7, 1.0))),
        {
            "semantic": Sampling(guidance_scale=1.0),
            "acoustic": Sampling(guidance_scale={"semantic": 2.0}),
        },
    ],
)
def test_a_negative_prompt_that_guidance_never_drops_is_refused(
    duet_mono: AudioPipeline, sampling: Sampling | dict[str, Sampling]
) -> None:
    settings = {"duration": 0.1, "seed": 1, "sampling": sampling}
    with pytest.raises(ValueError, match="A negative prompt has no effect"):
        duet_mono.generate("rain", negative="a violin", **settings)  # type: ignore[arg-type]
    duet_mono.generate("rain", **settings)  # type: ignore[arg-type]


def test_a_negative_prompt_may_act_late_or_in_one_stage_only(duet_mono: AudioPipeline) -> None:
    for sampling in (
        Sampling(guidance_schedule=((0.1, 0.0), (0.2, 1.0))),
        {"semantic": Sampling(guidance_scale=1.0)},
    ):
        clips = [
            duet_mono.generate(
                "rain", duration=0.6, seed=1, sampling=sampling, negative=negative
            ).tokens  # type: ignore[union-attr]
            for negative in ("a violin", "a dog barking")
        ]
        assert not torch.equal(*clips)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 0).long(), "[1, T], int64, not empty"),
        (ones(1, 2), "Tokens for the semantic stage must not repeat"),
    ],
)
def test_de_duplicated_tokens_must_be_so(
    audiolm_mono: AudioPipeline, tokens: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        audiolm_mono.generate(duration=0.1, tokens={"semantic": tokens})


def test_a_stage_whose_tokens_nobody_needs_is_not_run(audiolm_mono: AudioPipeline) -> None:
    first = audiolm_mono.generate(duration=0.5, seed=1)
    coarse, fine = (first.stage_values[name] for name in ("coarse", "fine"))  # type: ignore[union-attr]
    progress: list[float] = []
    again = audiolm_mono.generate(
        duration=0.5, seed=1, tokens={"coarse": coarse}, progress=progress.append
    )
    assert progress[-1] == 1.0
    assert set(again.stage_values) == {"coarse", "fine"}  # type: ignore[union-attr]
    assert torch.equal(again.samples, first.samples)  # type: ignore[union-attr]
    pieces = list(audiolm_mono.stream(duration=0.5, tokens={"coarse": coarse, "fine": fine}))
    assert torch.equal(torch.cat(pieces, dim=1), first.samples)  # type: ignore[union-attr]


def test_what_is_given_for_a_stage_that_nobody_needs_is_refused(
    audiolm_mono: AudioPipeline,
) -> None:
    coarse = ones(2, 5)
    for settings in (
        {"tokens": {"semantic": torch.tensor([[1, 2]]), "coarse": coarse}},
        {"tokens": {"coarse": coarse}, "sampling": {"semantic": Sampling()}},
    ):
        with pytest.raises(ValueError, match="The semantic stage is not run"):
            audiolm_mono.generate(duration=0.1, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda p: p.stream(["rain", "a violin"]), "prompt"),
        (lambda p: p.stream("rain", duration=[0.1, 0.2]), "duration"),
        (lambda p: p.stream("rain", seed=(1, 2)), "seed"),
        (lambda p: p.inpaint(AUDIO, start=0, end=0.1, text=["rain"]), "text"),
        (lambda p: p.inpaint([AUDIO] * 3, start=0, end=0.1), "audio"),
    ],
)
def test_lists_are_refused_where_one_clip_is_made(
    duet_mono: AudioPipeline, call: object, name: str
) -> None:
    with pytest.raises(ValueError, match=f"makes one clip, so {name} must not be a list"):
        call(duet_mono)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        ((AUDIO[0].numpy(), 24_000), "Samples must be a float tensor within -1..1, got ndarray"),
        ((AUDIO[0].short(), 24_000), "within -1..1, got torch.int16"),
        ((AUDIO[0] * torch.nan, 24_000), "Samples contain NaN or infinity"),
        ((AUDIO[0] / 0, 24_000), "Samples contain NaN or infinity"),
        ((torch.zeros(1, 0), 24_000), "Expected samples [C, N] with N >= 1, got [1, 0]"),
        ((torch.zeros(0, 5), 24_000), "Expected samples [C, N] with N >= 1, got [0, 5]"),
        ((AUDIO[0], 0), "The sample rate must be a positive integer, got 0"),
        ((AUDIO[0], None), "The sample rate must be a positive integer, got None"),
        (AUDIO[0], "Audio must be a path, a Clip, or samples"),
    ],
)
def test_samples_that_are_no_sound_are_refused(
    audiogen_mono: AudioPipeline, audio: object, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        audiogen_mono.continue_from(audio, duration=0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape(message)):
        audiogen_mono.inpaint(audio, start=0.0, end=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["top_k", "repetition_window"])
def test_settings_that_no_tensor_holds_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be an integer .* and at most 1000000"):
        Sampling(**{name: 2**70})  # type: ignore[arg-type]
