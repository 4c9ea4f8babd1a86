"""Levels of the model in the package: how they step where a prompt ends, and files keep prompts."""

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_files import read_audio
from lm_audio.pipeline import AudioPipeline

RATE = 24_000
N = 3 * RATE
SEEDS = [0, 1, 2, 3]


def steady(name: str) -> Tensor:
    seconds = torch.arange(N, dtype=torch.float64) / RATE
    if name == "tone":
        samples = 0.4 * torch.sin(2 * math.pi * 440 * seconds)
    elif name == "low tone":
        samples = 0.3 * torch.sin(2 * math.pi * 150 * seconds)
    elif name == "hum":
        overtones = [torch.sin(2 * math.pi * 100 * k * seconds + k * k) / k for k in range(1, 12)]
        samples = 0.1 * torch.stack(overtones).sum(0)
    else:  # rain: noise that is a little darker than white, in drops
        noise = torch.from_numpy(np.random.default_rng(0).standard_normal(N))
        samples = 0.05 * (noise + 0.6 * noise.roll(1)) * (1 + 0.3 * noise.roll(9).sign())
    return samples.float()[None]


def level(samples: Tensor) -> float:
    return float(10 * samples.square().mean().log10())


@pytest.mark.parametrize("name", ["tone", "low tone", "hum", "rain"])
def test_a_steady_sound_goes_on_at_its_level(model: AudioPipeline, name: str) -> None:
    prompt = steady(name)
    clips = model.continue_from([(prompt, RATE)] * 4, duration=1.5, seed=SEEDS)
    half = RATE // 2
    before = level(prompt[:, -half:])
    steps = [level(clip.samples[:, N : N + half]) - before for clip in clips]
    assert abs(statistics.median(steps)) < 3
    assert all(torch.equal(clip.samples[:, :N], prompt) for clip in clips)


def test_a_file_holds_the_samples_of_its_prompt(model: AudioPipeline, tmp_path: Path) -> None:
    """A loud prompt stays as it is, whatever follows it."""
    prompt = (steady("tone") * 2.4 * 32_768).round() / 32_768
    prompt = prompt[:, :RATE].clamp(-1, 32_767 / 32_768)
    model.continue_from((prompt, RATE), duration=1.0, seed=1).save(tmp_path / "longer.wav")
    assert torch.equal(read_audio(tmp_path / "longer.wav").samples[:, :RATE], prompt)
