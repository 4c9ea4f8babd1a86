"""Minutes of sound from a model that sees seconds."""

import resource
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline

MINUTES = 5


@pytest.mark.slow
def test_five_minutes_from_a_model_of_thirty_seconds_take_constant_memory(
    make_audiogen: Callable[..., AudioPipeline],
) -> None:
    short = make_audiogen(1)
    (stage,) = short.stages.values()
    model = AudioPipeline(
        Model([replace(stage, window_frames=1500, overlap_frames=600)], short.renderer)
    )
    num_samples, after_a_minute, total = 0, 0, torch.zeros(())
    for piece in model.stream("rain", duration=60.0 * MINUTES, seed=1):
        num_samples += piece.shape[1]
        total += piece.square().sum()
        if not after_a_minute and num_samples > 60 * 24_000:
            after_a_minute = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert num_samples == MINUTES * 60 * 24_000
    assert total.isfinite()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - after_a_minute
    assert grown < 20 * 1024  # kB; the tokens of four minutes are 0.4 MB
