"""What every family promises: the same clip in any company, exact lengths, kept prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

RATE = 6000
SAMPLING = Denoising(steps=2, solver="ddim", guidance_scale=2.0)
LONG = 0.04  # seconds: three windows of 0.016 s, the last filled up


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def clip(model: AudioPipeline, text: str | None = "rain", **settings: Any) -> Tensor:
    given: dict[str, Any] = {"duration": 0.03, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(text, **given).samples


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 200 * time)[None]


@pytest.mark.parametrize("duration", [1 / RATE, 0.0301, LONG, 0.1])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (1, round(duration * RATE))
    assert made.isfinite().all()
    assert made.abs().max() > 0.01


def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline) -> None:
    alone = clip(model, duration=LONG, seed=7)
    texts = ["a violin plays", "rain", None, "rain"]
    batch = model.generate(
        texts, duration=[0.02, LONG, 0.016, LONG], seed=[1, 7, 3, 8], sampling=SAMPLING
    )
    assert torch.equal(batch[1].samples, alone)
    assert torch.equal(batch[0].samples, clip(model, texts[0], duration=0.02, seed=1))
    assert not torch.equal(batch[3].samples, alone)


def test_the_text_and_the_seed_change_the_clip(model: AudioPipeline) -> None:
    made = clip(model)
    assert torch.equal(clip(model), made)
    assert not torch.allclose(clip(model, "a violin plays"), made, atol=1e-3)
    assert not torch.allclose(clip(model, seed=6), made, atol=1e-3)


@pytest.mark.parametrize("duration", [0.01, LONG, 0.08])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    pieces = list(model.stream("rain", duration=duration, seed=2, sampling=SAMPLING))
    assert torch.equal(torch.cat(pieces, dim=1), clip(model, duration=duration, seed=2))


def test_a_longer_clip_begins_with_the_windows_of_a_shorter_one_that_its_end_does_not_reach(
    model: AudioPipeline,
) -> None:
    short, longer = (clip(model, duration=seconds, raw=True) for seconds in (0.064, 0.15))
    assert torch.equal(longer[:, :96], short[:, :96])


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tone(0.03)
    made = model.continue_from((prompt, RATE), duration=0.03, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (1, 360)
    assert torch.equal(made.samples[:, :180], prompt)
    assert made.samples[:, 180:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tone(0.04)
    made = model.inpaint((whole, RATE), start=0.01, end=0.02, seed=3, sampling=SAMPLING).samples
    assert torch.equal(made[:, :60], whole[:, :60])
    assert torch.equal(made[:, 120:], whole[:, 120:])
    assert not torch.allclose(made[:, 60:120], whole[:, 60:120], atol=0.01)


@pytest.mark.parametrize("num_samples", [239, 240, 241])
def test_a_variation_moves_away_with_its_strength(model: AudioPipeline, num_samples: int) -> None:
    sound = tone(0.05)[:, :num_samples]
    distances = []
    for strength in (0.1, 1.0):
        sampling = Denoising(steps=10, solver="ddim", guidance_scale=1.0)
        made = model.vary((sound, RATE), strength=strength, seed=1, sampling=sampling, raw=True)
        assert made.samples.shape == sound.shape
        distances.append(float((made.samples - sound).square().mean()))
    assert distances[0] < 0.5 * distances[1]


@pytest.mark.parametrize("duration", [0.005, 0.016])
def test_a_loop_has_its_length(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration, loop=True)
    assert made.shape == (1, round(duration * RATE))
    assert made.isfinite().all()


def test_the_noise_level_is_a_condition_of_the_cascaders(model: AudioPipeline) -> None:
    made = clip(model)
    assert torch.equal(clip(model, conditions={"level": 0.0}), made)
    noisy = clip(model, conditions={"level": 0.4})
    assert torch.equal(clip(model, conditions={"level": 0.4}), noisy)
    assert not torch.allclose(noisy, made, atol=1e-3)
    with pytest.raises(ValueError, match=r"Expected a noise level from 0 to 0\.5, or None"):
        clip(model, conditions={"level": 0.6})
