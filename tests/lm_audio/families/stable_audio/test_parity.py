"""Whole clips of Stable Audio Open against diffusers' pipeline."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableAudioPipeline
from torch import Tensor

import lm_audio
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.networks.condition import joined
from lm_audio.sampling import Denoising, gaussians

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PROMPT, NEGATIVE = "a dog barks on tin", "low quality"
RATE, HOP, WIDTH = 1600, 8, 6
CLIP_ATOL = 1e-3


def noise(seed: int, step: object, num_frames: int) -> Tensor:
    """The noise of our clip, [1, D, T]."""
    return gaussians(seed, f"diffusion/0/{step}", 0, num_frames, WIDTH)[None]


def their_clip(
    parts: dict[str, Any], *, negative: str | None, steps: int, scale: float, num_frames: int
) -> Tensor:
    """diffusers makes as many frames as the transformer's `sample_size`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableAudioPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.transformer.register_to_config(sample_size=num_frames)
    scheduler = parts["scheduler"]
    drawn = iter([noise(3, i, num_frames) for i in range(steps)])

    def keep_noise(num_steps: int, **others: Any) -> None:
        type(scheduler).set_timesteps(scheduler, num_steps, **others)
        scheduler.noise_sampler = lambda *_: next(drawn)

    scheduler.set_timesteps = keep_noise
    return pipeline(
        PROMPT,
        negative_prompt=negative,
        latents=noise(3, "start", num_frames),
        num_inference_steps=steps,
        guidance_scale=scale,
        audio_end_in_s=num_frames * HOP / RATE,
        output_type="pt",
    ).audios[0]


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize(("num_frames", "scale"), [(16, 7.0), (9, 1.0), (5, 3.0)])
def test_a_clip_is_that_of_diffusers(
    parts: dict[str, Any], folder: Path, negative: str | None, num_frames: int, scale: float
) -> None:
    model = lm_audio.load(folder)
    given: dict[str, Any] = {
        "duration": num_frames * HOP / RATE,
        "seed": 3,
        "negative": negative if scale > 1 else None,
        "sampling": Denoising(steps=6, solver="dpm++2m-sde", guidance_scale=scale),
        "raw": True,
    }
    clip = model.generate(PROMPT, **given)
    expected = their_clip(parts, negative=negative, steps=6, scale=scale, num_frames=num_frames)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)
    other = model.generate("wind", **given).samples
    assert (other - expected).abs().max() > 0.05  # prompts are heard


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "a projected text": {
        "projection_model": {"conditioning_dim": 12},
        "transformer": {
            "cross_attention_input_dim": 12, "cross_attention_dim": 8,
            "num_key_value_attention_heads": 1, "global_states_input_dim": 24,
        },
    },
    "mono, another range of seconds": {
        "vae": {"audio_channels": 1}, "projection_model": {"min_value": -1, "max_value": 0.5},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(CONFIGURATIONS))
def test_odd_configurations_are_those_of_diffusers(
    make_parts: Make, write_parts: Write, tmp_path: Path, name: str
) -> None:
    parts = make_parts(**CONFIGURATIONS[name])
    model = lm_audio.load(write_parts(parts, tmp_path))
    sampling = Denoising(steps=4, solver="dpm++2m-sde", guidance_scale=4.0)
    clip = model.generate(PROMPT, duration=0.06, seed=3, sampling=sampling, raw=True)
    expected = their_clip(parts, negative=None, steps=4, scale=4.0, num_frames=12)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(clip.samples, expected, atol=CLIP_ATOL, rtol=0)


def test_the_published_settings_are_the_default(folder: Path) -> None:
    model = lm_audio.load(folder)
    assert model.sample_rate == RATE
    (stage,) = model.model.stages
    assert stage.sampling == Denoising(steps=100, solver="dpm++2m-sde", guidance_scale=7.0)
    assert model.model.card.licence == "stable-audio-community"


@torch.no_grad()
def test_rows_of_a_pass_do_not_mix(folder: Path) -> None:
    """As on a GPU, where rows with and without a text share a pass."""
    (stage,) = lm_audio.load(folder).model.stages
    assert isinstance(stage, DiffusionStage)
    texts: list[str | None] = [PROMPT, None, ""]
    rows = [
        stage.conditioners.fused(
            {name: stage.conditioners[name]([value]) for name, value in given.items()}
        )
        for given in (
            {"text": text, "seconds_start": 0.0, "seconds_total": 0.1 * i}
            for i, text in enumerate(texts)
        )
    ]
    x, times = torch.cat([noise(3, i, 16) for i in range(3)]), torch.tensor([0.9, 0.5, 0.1])
    together = stage.network(x, times, joined(rows))
    for i, row in enumerate(rows):
        alone = stage.network(x[i : i + 1], times[i : i + 1], row)[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=0)
