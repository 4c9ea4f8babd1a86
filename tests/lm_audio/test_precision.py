"""The gate of dtype="auto": how far choices are off, and what is loaded then."""

from pathlib import Path

import pytest
import torch

from lm_audio import precision
from lm_audio.generation.lm_stage import LMStage
from lm_audio.loading import load
from lm_audio.networks.cpu.int8 import Int8Linear
from lm_audio.pipeline import AudioPipeline
from lm_audio.precision import divergence, fastest, new_clip
from lm_audio.sampling import Sampling


def is_int8(pipeline: AudioPipeline) -> bool:
    model = pipeline.stages["acoustic"].model
    return any(isinstance(layer, Int8Linear) for layer in model.modules())


def stage_of(pipeline: AudioPipeline) -> LMStage:
    stage = pipeline.stages["acoustic"]
    assert isinstance(stage, LMStage)
    return stage


def test_nothing_is_off_between_a_model_and_itself(model_folder: Path) -> None:
    exact = load(model_folder)
    assert divergence(exact, load(model_folder), new_clip(exact)) == 0


def test_it_is_near_the_divergence_of_the_distributions(model_folder: Path) -> None:
    exact, other = load(model_folder), load(model_folder)
    scale = stage_of(other).model.transformer.norm.weight
    scale.data *= 1 + 0.05 * torch.randn(scale.shape, generator=torch.Generator().manual_seed(0))
    runs = new_clip(exact, Sampling(temperature=1.0, top_k=0, guidance_scale=1.0))
    run = runs["acoustic"]
    stages = stage_of(exact), stage_of(other)
    laid_out = stages[0]._window(run, 0, run.num_frames)
    row = stages[0]._row(laid_out, frozenset(), torch.ones(len(laid_out.frames)))
    window = laid_out.tokens[None]
    start = torch.full_like(window[..., :1], stages[0].start_token)
    inputs = torch.cat([start, window[..., :-1]], dim=-1)
    with torch.inference_mode():
        p, q = (x.model(inputs, fused=row.fused).log_softmax(dim=-1) for x in stages)
    whole = float((p.exp() * (p - q)).sum(dim=-1).mean())
    assert 0.5 < divergence(exact, other, runs) / whole < 2


@pytest.mark.parametrize(("most", "expected"), [(1e9, "int8"), (0.0, "float32")])
def test_the_first_precision_that_is_near_enough_is_taken(
    model_folder: Path, most: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "MOST_NATS", most)
    found = load(model_folder, dtype="auto", device="cpu")
    assert is_int8(found) == (expected == "int8")
    if expected == "float32":
        clip = found.generate("a dog", duration=0.3, seed=1)
        exact = load(model_folder).generate("a dog", duration=0.3, seed=1)
        assert torch.equal(clip.tokens, exact.tokens)


def test_the_exact_model_makes_what_others_are_judged_by(model_folder: Path) -> None:
    asked: list[str] = []

    def loading(dtype: str) -> AudioPipeline:
        asked.append(dtype)
        return load(model_folder, dtype=dtype)

    fastest(loading, ["bfloat16"])
    assert asked == ["float32", "bfloat16"]
