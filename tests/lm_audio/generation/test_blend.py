"""Blends: the network's outputs for several prompts are mixed, in every pass."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.generation.blend import Blend
from lm_audio.generation.request import make_requests
from lm_audio.generation.takes import best_of
from lm_audio.networks.condition import Fused
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from tests.lm_audio.generation.test_diffusion_stage import TinyNetwork, made, tiny_stage
from tests.lm_audio.generation.test_direct_stage import pipeline as led_pipeline

MIXED = {"wind": 0.25, "rain": 0.75}


def latents(model: AudioPipeline, prompt: Any, **settings: Any) -> Tensor:
    given = {"duration": 0.08, "seed": 3} | settings
    return model.generate(prompt, **given).stage_values["latents"]


def test_shares_are_relative_and_their_order_does_not_matter() -> None:
    blend = Blend({"wind": 1, "rain": 3, "snow": 0})
    assert blend.texts == ("rain", "wind")
    assert blend.shares == (0.75, 0.25)
    assert blend == Blend(MIXED)
    assert str(blend) == "0.75: rain; 0.25: wind"
    model = led_pipeline()
    assert torch.equal(latents(model, MIXED), latents(model, {"rain": 3, "wind": 1}))
    assert torch.equal(latents(model, MIXED), latents(model, blend))


@pytest.mark.parametrize(
    "parts",
    [{}, {"rain": 0}, {"rain": -1, "wind": 2}, {"rain": "a"}, {1: 0.5}, {"rain": float("nan")}],
)
def test_a_wrong_blend_gets_one_sentence(parts: Any) -> None:
    with pytest.raises(ValueError, match=r"A blend needs prompts with weights of at least 0, one"):
        Blend(parts)


@pytest.mark.parametrize("settings", [{}, {"guidance_rescale": 0.7}, {"solver": "dpm++2m"}])
def test_a_single_prompt_is_as_without_a_blend(settings: dict[str, Any]) -> None:
    model = led_pipeline()
    sampling = Denoising(**{"steps": 3, "solver": "euler", "guidance_scale": 3.0} | settings)
    expected = latents(model, "rain", sampling=sampling)
    for parts in ({"rain": 2.5}, {"rain": 1.0, "wind": 0}):
        assert torch.equal(latents(model, parts, sampling=sampling), expected)


def test_the_outputs_for_both_prompts_are_mixed_in_every_pass() -> None:
    """One guided step by hand: the empty row once, each prompt with its share."""
    calls: list[Tensor] = []

    class Recording(TinyNetwork):
        def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
            output = super().forward(x, times, condition)
            calls.append(output[0])
            return output

    stage = tiny_stage(
        network=Recording(12).requires_grad_(False),
        sampling=Denoising(steps=1, solver="euler", guidance_scale=3.0),
    )
    for text in ("rain", "wind"):
        made(stage, 12, conditions={"text": text})
    empty, rain, again, wind = calls[:4]
    assert torch.equal(empty, again)
    assert not torch.allclose(rain, wind, atol=1e-3)
    calls.clear()
    found = made(stage, 12, conditions={"text": Blend(MIXED)})
    assert len(calls) == 3
    for call, expected in zip(calls, (empty, rain, wind), strict=True):
        assert torch.equal(call, expected)
    ends = [made(stage, 12, conditions={"text": text}) for text in ("rain", "wind")]
    # A step of a solver is affine in the output.
    torch.testing.assert_close(found, 0.75 * ends[0] + 0.25 * ends[1], atol=1e-5, rtol=1e-5)


def test_outside_the_interval_of_guidance_only_the_prompts_are_mixed() -> None:
    free = Denoising(steps=4, solver="euler", guidance_scale=1.0)
    outside = replace(free, guidance_scale=3.0, guidance_interval=(0.999, 1.0))
    model = led_pipeline()
    torch.testing.assert_close(
        latents(model, MIXED, sampling=outside), latents(model, MIXED, sampling=free)
    )


def test_small_changes_of_the_shares_change_little() -> None:
    model = led_pipeline()
    sampling = Denoising(steps=4, solver="euler", guidance_scale=2.0)

    def at(share: float) -> Tensor:
        return latents(model, {"rain": 1 - share, "wind": share}, sampling=sampling)

    path = [at(i / 8) for i in range(9)]
    steps = [float((b - a).norm()) for a, b in pairwise(path)]
    whole = float((path[-1] - path[0]).norm())
    assert whole > 0.1
    assert max(steps) < 0.3 * whole
    assert float((at(1e-4) - path[0]).norm()) < 1e-2 * whole


def test_vectors_of_an_earlier_stage_lie_between_those_of_the_prompts() -> None:
    model = led_pipeline()
    clip = model.generate(MIXED, duration=0.08, seed=3)
    rain, wind = (
        model.generate(text, duration=0.08, seed=3).stage_values["meaning"]
        for text in ("rain", "wind")
    )
    meaning = clip.stage_values["meaning"]
    torch.testing.assert_close(meaning, 0.75 * rain + 0.25 * wind)
    again = model.generate(MIXED, duration=0.08, seed=3, tokens={"meaning": meaning})
    assert torch.equal(again.samples, clip.samples)


def test_a_blend_is_the_same_in_a_batch_and_in_pieces() -> None:
    model = led_pipeline()
    alone = model.generate(MIXED, duration=0.2, seed=3)
    batch = model.generate(["snow", MIXED], duration=[0.08, 0.2], seed=[1, 3])
    assert torch.equal(batch[1].samples, alone.samples)
    pieces = list(model.stream(MIXED, duration=0.2, seed=3))
    assert torch.equal(torch.cat(pieces, dim=1), alone.samples)
    assert alone.prompt == "0.75: rain; 0.25: wind"
    assert alone.settings["blend"] == alone.prompt


def test_takes_are_ranked_by_the_share_of_each_prompt() -> None:
    class Judge:
        def score(self, samples: Tensor, sample_rate: int, text: str) -> float:  # noqa: ARG002
            return {"rain": 1.0, "wind": -1.0}[text] * float(samples[0, 0])

    model = led_pipeline()
    requests = make_requests(MIXED, duration=0.01, seed=1, sample_rate=4000)
    clips = [model.generate("rain", duration=0.01, seed=seed) for seed in (1, 2, 3)]
    (best,) = best_of(clips, requests, Judge())
    assert best.samples[0, 0] == max(clip.samples[0, 0] for clip in clips)


def test_language_models_do_not_blend() -> None:
    model = lm_audio.load(device="cpu")
    with pytest.raises(ValueError, match="The semantic stage follows one prompt at a time"):
        model.generate(MIXED, duration=0.5)
    with pytest.raises(ValueError, match="A text prompt must be a string"):
        model.generate("rain", duration=0.5, negative=MIXED)  # type: ignore[arg-type]
