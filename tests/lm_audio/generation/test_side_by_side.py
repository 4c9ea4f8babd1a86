"""A pipeline holds no state of requests: calls run side by side, and may be given up."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from lm_audio.pipeline import AudioPipeline

SETTINGS = [{"duration": 0.6, "seed": 1}, {"duration": 0.9, "seed": 2}]


def samples(pipeline: AudioPipeline, settings: dict[str, float]) -> Tensor:
    text = "rain" if "text" in pipeline.conditions else None
    return pipeline.generate(text, **settings).samples  # type: ignore[arg-type, union-attr]


def test_two_threads_make_what_each_makes_alone(pipeline: AudioPipeline) -> None:
    alone = [samples(pipeline, one) for one in SETTINGS]
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(lambda one: samples(pipeline, one), SETTINGS * 2))
    for i, made in enumerate(found):
        assert torch.equal(made, alone[i % 2])


def test_an_abandoned_stream_changes_nothing_for_others(pipeline: AudioPipeline) -> None:
    text = "rain" if "text" in pipeline.conditions else None
    alone = samples(pipeline, SETTINGS[0])
    abandoned = pipeline.stream(text, duration=5.0, seed=1)
    first = next(abandoned)
    other = pipeline.stream(text, **SETTINGS[0])  # type: ignore[arg-type]
    begun = next(other)
    del abandoned
    assert torch.equal(torch.cat([begun, *other], dim=1), alone)
    assert torch.equal(samples(pipeline, SETTINGS[0]), alone)
    assert first.isfinite().all()
