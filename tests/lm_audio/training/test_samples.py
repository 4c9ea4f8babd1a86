"""Samples are what a stage generates, in its windows, of the prompt and the source."""

from collections.abc import Callable
from dataclasses import replace

import torch

from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.track import Track
from lm_audio.sampling import Sampling
from lm_audio.training.samples import sample_tokens


def test_samples_are_those_of_a_whole_cascade(duet_stages: Callable[..., list[Stage]]) -> None:
    semantic, acoustic = duet_stages(context=40)
    runs = [
        Track(
            values=torch.full((stage.num_codebooks, frames), -1),
            seed=3,
            sampling=stage.sampling,
            conditions={"text": "rain"},
        )
        for stage, frames in [(semantic, 50), (acoustic, 100)]
    ]
    runs[1].source = runs[0]
    for stage, run in zip([semantic, acoustic], runs, strict=True):
        batch = stage.new_batch()
        batch.add(run)
        while batch.step():
            pass
    first = sample_tokens(semantic, num_frames=50, seed=3, values={"text": "rain"})
    assert torch.equal(first, runs[0].values)
    tokens = sample_tokens(
        acoustic, num_frames=100, seed=3, values={"text": "rain"}, source=first.to(torch.int16)
    )
    assert torch.equal(tokens, runs[1].values)
    other = sample_tokens(acoustic, num_frames=100, seed=4, values={"text": "rain"}, source=first)
    assert not torch.equal(tokens, other)


def test_a_prompt_is_kept_and_continued(audiogen_stage: Stage) -> None:
    greedy = Sampling(temperature=0.0, guidance_scale=1.0)
    stage = replace(audiogen_stage, sampling=greedy)
    whole = sample_tokens(stage, num_frames=30, seed=0)
    again = sample_tokens(stage, num_frames=30, seed=1, prompt=whole[:, :11])
    assert whole.shape == (4, 30)
    assert torch.equal(again, whole)
    prompt = (whole[:, :11] + 1) % 16
    assert torch.equal(sample_tokens(stage, num_frames=30, seed=0, prompt=prompt)[:, :11], prompt)
