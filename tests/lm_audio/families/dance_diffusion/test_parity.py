"""Whole clips against diffusers' pipeline with the same noise, and v-ddim against its formula."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DanceDiffusionPipeline
from diffusers.pipelines.deprecated.dance_diffusion import pipeline_dance_diffusion
from torch import Tensor

import lm_audio
from lm_audio.sampling import Denoising, gaussians

RATE = 1600
ATOL = 1e-3


def noise(num_samples: int, step: str = "start") -> Tensor:
    return gaussians(5, f"diffusion/0/{step}", 0, num_samples, 2)


@pytest.mark.parametrize("num_samples", [24, 41, 96])
@pytest.mark.parametrize("steps", [4, 30])
def test_a_clip_is_that_of_the_pipeline(
    published: DanceDiffusionPipeline,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_samples: int,
    steps: int,
) -> None:
    given: list[int] = []

    def ours(shape: tuple[int, ...], **_: Any) -> Tensor:
        given.append(shape[2])
        return noise(shape[2])[None]

    monkeypatch.setattr(pipeline_dance_diffusion, "randn_tensor", ours)
    seconds = num_samples / RATE
    expected = published(audio_length_in_s=seconds, num_inference_steps=steps, return_dict=False)[0]
    assert given == [-(-num_samples // 8) * 8]
    sampling = Denoising(steps=steps, solver="ipndm", guidance_scale=1.0)
    clip = lm_audio.load(folder).generate(duration=seconds, seed=5, sampling=sampling, raw=True)
    made = clip.samples.clamp(-1, 1)
    assert float((clip.samples.abs() < 1).float().mean()) > 0.3  # not all of it is clamped
    torch.testing.assert_close(made, torch.from_numpy(expected)[0], atol=ATOL, rtol=ATOL)


def test_the_defaults_are_those_of_the_pipeline(folder: Path) -> None:
    model = lm_audio.load(folder)
    sampling = model.stages["diffusion"].sampling
    assert isinstance(sampling, Denoising)
    assert (sampling.steps, sampling.solver) == (100, "ipndm")
    assert model.stages["diffusion"].window_frames == 96


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_with_eta_is_the_formula_for_v(
    published: DanceDiffusionPipeline, folder: Path, eta: float
) -> None:
    """As in stable-audio-tools: the share of new noise follows from both levels, in float64."""
    steps, N = 12, 96
    x = noise(N).double()
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sigmas = (grid * math.pi / 2).sin() ** 2
    alphas = (1 - sigmas**2).sqrt()
    for i in range(steps):
        a, s, to_a, to_s = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
        time = torch.atan2(s, a) / math.pi * 2
        v = published.unet(x.float()[None], time.float()[None]).sample[0].double()
        signal, epsilon = x * a - v * s, x * s + v * a
        if i < steps - 1:
            new = eta * (to_s**2 / s**2).sqrt() * (1 - a**2 / to_a**2).clamp(min=0).sqrt()
            x = signal * to_a + epsilon * (to_s**2 - new**2).sqrt()
            x = x + noise(N, str(i)).double() * new
        else:
            x = signal
    sampling = Denoising(steps=steps, solver="ddim", eta=eta, guidance_scale=1.0)
    clip = lm_audio.load(folder).generate(duration=N / RATE, seed=5, sampling=sampling, raw=True)
    torch.testing.assert_close(clip.samples, x.float(), atol=ATOL, rtol=ATOL)
