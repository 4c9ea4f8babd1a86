"""Models with a masked stage, MAGNeT and SoundStorm, from request to sound."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Denoising, Sampling, Unmasking
from tests.lm_audio.generation.test_masked_stage import SHAPE


def test_settings_of_another_kind_are_refused(magnet_mono: AudioPipeline) -> None:
    for wrong in (Sampling(), Denoising()):
        with pytest.raises(ValueError, match=r"No stage .* takes a \w+; pass an Unmasking"):
            magnet_mono.generate("rain", duration=0.2, sampling=wrong)
        with pytest.raises(ValueError, match="The acoustic stage takes an Unmasking, got a "):
            magnet_mono.generate("rain", duration=0.2, sampling={"acoustic": wrong})
    clip = magnet_mono.generate("rain", duration=0.2, seed=1, sampling=Unmasking(steps=2))
    assert clip.samples.shape == (1, 4800)


def test_a_story_changes_the_prompt_at_its_time(magnet_mono: AudioPipeline) -> None:
    plain = magnet_mono.generate("rain", duration=1.2, seed=2)
    story = magnet_mono.generate([(0.0, "rain"), (0.6, "a violin")], duration=1.2, seed=2)
    other = magnet_mono.generate([(0.0, "rain"), (0.6, "a dog barking")], duration=1.2, seed=2)
    assert torch.equal(story.tokens[:, :30], plain.tokens[:, :30])
    assert not torch.equal(story.tokens[:, 30:], plain.tokens[:, 30:])
    assert not torch.equal(story.tokens[:, 30:], other.tokens[:, 30:])


def test_semantic_tokens_decide_what_is_heard(soundstorm_mono: AudioPipeline) -> None:
    stage = soundstorm_mono.stages["acoustic"]
    assert isinstance(stage, MaskedStage)
    with pytest.raises(ValueError, match="has a source, so whole_windows must be False"):
        replace(stage, whole_windows=True)
    one = torch.arange(25)[None] % 40
    other = one.clone()
    other[:, 10] = 30

    def tokens(semantic: Tensor) -> Tensor:
        clip = soundstorm_mono.generate("rain", duration=1.0, seed=1, tokens={"semantic": semantic})
        assert clip.tokens is not None
        return clip.tokens

    assert not torch.equal(tokens(one), tokens(other))
    assert stage.source is not None


def test_an_acoustic_stage_starts_as_soon_as_its_window_has_semantic_tokens(
    soundstorm_mono: AudioPipeline,
) -> None:
    stream = soundstorm_mono.start(_request(soundstorm_mono, seconds=3.0))
    session = soundstorm_mono.session()
    session.add(stream)
    while not stream.tracks["acoustic"].num_done:
        session.step()
    assert not stream.tracks["semantic"].done


def test_deduplicated_semantic_tokens_come_as_a_prefix(
    audiolm_mono: AudioPipeline, codec: Any
) -> None:
    from lm_audio.families.soundstorm.stages import soundstorm

    torch.manual_seed(1)
    stage = soundstorm(
        replace(SHAPE, cross_attention=False),
        num_semantic_tokens=40,
        semantic_rate=Fraction(20),
        deduplicated=True,
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(50),
    )
    for weight in (*stage.model.parameters(), *stage.conditioners.parameters()):
        weight.data *= 2.5
    stage = replace(stage, window_frames=60, overlap_frames=20)
    model = Model(
        [audiolm_mono.model.stages[0], stage],
        CodecRenderer(codec),
        semantic_tokenizer=audiolm_mono.semantic_tokenizer,
    )
    pipeline = AudioPipeline(model)
    clip = pipeline.generate(duration=2.0, seed=3)
    assert clip.samples.shape == (1, 48_000)
    again = pipeline.generate(duration=[0.5, 2.0], seed=[4, 3])[1]
    assert torch.equal(again.samples, clip.samples)
    prompt = pipeline.continue_from(clip, duration=0.5, seed=1)
    assert torch.equal(prompt.samples[:, :48_000], clip.samples)
    semantic = clip.stage_values["semantic"].clone()
    semantic[:, 5] = next(v for v in range(40) if v not in semantic[0, 4:7])
    other = pipeline.generate(duration=2.0, seed=3, tokens={"semantic": semantic})
    assert not torch.equal(other.tokens, clip.tokens)


def _request(pipeline: AudioPipeline, *, seconds: float) -> Any:
    from lm_audio.generation.request import make_requests

    (request,) = make_requests("rain", duration=seconds, seed=7, sample_rate=pipeline.sample_rate)
    return request
