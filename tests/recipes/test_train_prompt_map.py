"""A map learns to give the tokens of texts, and pictures and sounds then prompt a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

import lm_audio
from lm_audio.families.make_an_audio.reading import read_map, read_picture_space, read_text
from lm_audio.sampling import Denoising
from lm_audio.training.checkpoints import Checkpoints
from tests.lm_audio.families.make_an_audio.conftest import (
    randomise,
    small_parts,
    tokenizer,
    write,
    write_original,
)
from tests.lm_audio.families.make_an_audio.test_prompts import clap_model, clip_model

pytestmark = pytest.mark.usefixtures("steady_weights")
PINNED = 1.2825
QUICK = Denoising(steps=2)
Run = tuple[Any, list[float]]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_prompt_map")


@pytest.fixture(scope="module")
def run(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = replace(recipe.PRESETS["tiny"], out=tmp_path_factory.mktemp("run"))
    return config, recipe.main(config)


def test_the_loss_after_five_steps_is_pinned_and_it_falls(recipe: ModuleType, run: Run) -> None:
    config, losses = run
    assert losses[4] == pytest.approx(PINNED, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    best = Checkpoints(config.out / "checkpoints").best()
    assert best is not None
    assert best.loss is not None
    assert best.loss < 0.9  # 1 is the mean of the tokens
    assert list((config.out / "log").glob("events.*"))
    assert recipe.main(config) == []  # done


def test_the_map_that_is_kept_is_the_best(recipe: ModuleType, run: Run) -> None:
    config = run[0]
    best = Checkpoints(config.out / "checkpoints").best()
    assert best is not None
    folder = config.out / "model" / "image_encoder"
    prompt_map, space = read_map(folder / "prompt_map"), read_picture_space(folder)
    text = read_text(config.out / "model")
    known = recipe.read_texts(config)
    held_out = sorted(recipe.choose_held_out(known, seed=0, share=config.held_out))
    train = torch.stack([text.encode(x) for x in sorted(known - {*held_out})[: recipe.MEASURED]])
    variance = (train - train.mean(dim=0)).square().mean()
    with torch.no_grad():
        errors = [
            (prompt_map(space.embed_texts([one])) - text.encode(one)).square().mean()
            for one in held_out
        ]
    assert float(sum(errors) / len(errors) / variance) == pytest.approx(best.loss, abs=2e-3)


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType, run: Run, tmp_path: Path, killed_at: Callable[..., Any]
) -> None:
    config = replace(run[0], out=tmp_path)
    last = int(np.random.default_rng().integers(0, config.steps))
    with killed_at(last):
        recipe.main(config)
    rest = recipe.main(config)
    assert rest == pytest.approx(run[1][-len(rest) :], rel=1e-5)
    with pytest.raises(ValueError, match="noise"):
        recipe.main(replace(config, noise=0.2, steps=200))


@pytest.mark.parametrize("kind", ["clip", "clap", "original"])
def test_the_model_takes_the_prompt(recipe: ModuleType, kind: str, tmp_path: Path) -> None:
    parts = small_parts()
    model = (write_original if kind == "original" else write)(parts, tmp_path / "model")
    encoder = clap_model() if kind == "clap" else clip_model()
    randomise(encoder)
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer().save_pretrained(tmp_path / "encoder")
    if kind == "clap":
        ClapFeatureExtractor(
            feature_size=8, max_length_s=1, truncation="rand_trunc"
        ).save_pretrained(tmp_path / "encoder")
    (tmp_path / "captions.txt").write_text("a dog barks\nrain on tin\nwind\n")
    config = replace(
        recipe.PRESETS["tiny"], model=model, encoder=tmp_path / "encoder", steps=2, batch_size=2,
        captions=tmp_path / "captions.txt", out=tmp_path / "out",
    )  # fmt: skip
    recipe.main(config)
    made = lm_audio.load(tmp_path / "out" / "model")
    assert made.conditions == ("text", *(("audio",) if kind == "clap" else ("image", "video")))
    given: dict[str, Any] = {"image": np.zeros((9, 9, 3), dtype=np.uint8)}
    if kind == "clap":
        given = {"audio": (torch.ones(1, 9000), 48_000)}
    clips = [
        made.generate(duration=0.02, seed=1, sampling=QUICK, conditions=one).samples
        for one in (given, {})
    ]
    assert not torch.allclose(*clips, atol=1e-3)


def test_mistakes_are_named(recipe: ModuleType, tmp_path: Path) -> None:
    tiny = replace(recipe.PRESETS["tiny"], out=tmp_path / "out")
    with pytest.raises(ValueError, match="needs --model with a Make-An-Audio"):
        recipe.main(replace(tiny, preset="default"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="is no Make-An-Audio"):
        recipe.main(replace(tiny, model=tmp_path / "empty"))
    with pytest.raises(
        ValueError, match=r"Expected a CLIP or a CLAP in .*, got a model of type None"
    ):
        recipe.main(replace(tiny, encoder=tmp_path / "empty"))
    with pytest.raises(ValueError, match="not found"):
        recipe.main(replace(tiny, encoder=tmp_path / "none"))
    (tmp_path / "one.txt").write_text("rain\n")
    with pytest.raises(ValueError, match="at least two captions"):
        recipe.main(replace(tiny, captions=tmp_path / "one.txt"))
    with pytest.raises(ValueError, match="noise must be at least 0"):
        recipe.Config(noise=-1.0)
