"""Clips of effects as files, written in parallel by a recipe's processes."""

from pathlib import Path

import torch

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.effects.catalogue import EffectPlan, render_effect
from lm_audio.data.effects.signals import num_samples


def write_effect(path: Path, plan: EffectPlan, *, sample_rate: int) -> None:
    """Writes a clip, unless a whole one is there already."""
    if not is_whole(path, seconds=plan.seconds, sample_rate=sample_rate):
        samples = render_effect(plan, sample_rate=sample_rate)
        write_audio(path, torch.from_numpy(samples), sample_rate)


def is_whole(path: Path, *, seconds: float, sample_rate: int) -> bool:
    """Whether an audio file has this length and rate, to the sample."""
    try:
        info = audio_info(path)
    except (FileNotFoundError, ValueError):  # not there, or broken: it is written again
        return False
    return (info.sample_rate, info.num_samples) == (sample_rate, num_samples(seconds, sample_rate))
