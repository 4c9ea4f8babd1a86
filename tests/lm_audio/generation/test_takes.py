"""The best of several takes, by judges whose scores are plain."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.pipeline import AudioPipeline
from tests.lm_audio.generation.test_diffusion_stage import RATE, tiny_pipeline

PROMPTS: list[Any] = ["rain", "wind"]


class Loudest:
    """Prefers the samples whose sum is highest for rain, lowest for wind."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def score(self, samples: Tensor, sample_rate: int, text: str) -> float:
        assert sample_rate == RATE
        self.asked.append((samples.shape[1], text))
        total = float(samples.sum())
        return total if text == "rain" else -total


def judged(judge: Loudest | None = None) -> AudioPipeline:
    model = tiny_pipeline().model
    return AudioPipeline(replace(model, judge=judge or Loudest()))


def test_the_best_take_is_kept_and_the_others_are_at_hand() -> None:
    pipeline = judged()
    clip = pipeline.generate("rain", duration=0.03, seed=3, best_of=4, raw=True)
    sums = [float(take.samples.sum()) for take in clip.takes]
    assert sums == sorted(sums, reverse=True)
    assert len(set(sums)) == 4
    assert clip.seed == clip.takes[0].seed
    assert torch.equal(clip.samples, clip.takes[0].samples)
    assert sorted(take.seed for take in clip.takes).count(3) == 1  # the plain clip is one of them
    for take in clip.takes:
        again = pipeline.generate("rain", duration=0.03, seed=take.seed, raw=True)
        assert torch.equal(again.samples, take.samples)
        assert again.takes == ()
        assert take.settings["seed"] == take.seed


def test_takes_do_not_depend_on_the_batch() -> None:
    pipeline = judged()
    clips = pipeline.generate(PROMPTS, duration=[0.03, 0.05], seed=[3, 4], best_of=3)
    for prompt, duration, seed, clip in zip(PROMPTS, (0.03, 0.05), (3, 4), clips, strict=True):
        alone = pipeline.generate(prompt, duration=duration, seed=seed, best_of=3)
        assert torch.equal(alone.samples, clip.samples)
        assert [take.seed for take in alone.takes] == [take.seed for take in clip.takes]
    more = pipeline.generate("rain", duration=0.03, seed=3, best_of=5)
    assert {take.seed for take in clips[0].takes} < {take.seed for take in more.takes}


def test_the_parts_of_a_story_are_judged_by_their_own_prompts() -> None:
    judge = Loudest()
    judged(judge).generate([(0.0, "rain"), (0.02, "wind")], duration=0.03, seed=1, best_of=2)
    assert judge.asked == [(80, "rain"), (40, "wind")] * 2


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="best_of needs a judge, which this model does not have"):
        tiny_pipeline().generate("rain", duration=0.03, best_of=2)
    with pytest.raises(ValueError, match="so it needs a prompt"):
        judged().generate(duration=0.03, best_of=2)
    story: Any = [(0.0, "rain", {"seed": 1}), (0.02, "wind", {"seed": 2})]
    with pytest.raises(ValueError, match="each part of the story has its own"):
        judged().generate(story, duration=0.03, best_of=2)
    for wrong in (0, 65, 1.5, "2"):
        with pytest.raises(ValueError, match="best_of must be a whole number from 1 to 64, got"):
            judged().generate("rain", duration=0.03, best_of=wrong)  # type: ignore[call-overload]
    clip: Clip = judged().generate("rain", duration=0.03, best_of=1)
    assert clip.takes == ()
