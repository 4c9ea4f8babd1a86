"""The acoustic recipe, whose loop all recipes of language models have."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lm_audio
from lm_audio.data.shards import Shards, write_shard
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import read_stage
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.samples import sample_tokens

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_acoustic")


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, token_shards: Path, codec_folder: Path) -> Any:
    return replace(
        recipe.PRESETS["tiny"],
        data=(token_shards,),
        codec=codec_folder,
        steps=STEPS,
        context_seconds=0.4,
        tokens_per_batch=800,
        evaluate_every=20,
        save_every=4,
    )


@pytest.fixture(scope="module")
def semantic(
    load_recipe: LoadRecipe,
    token_shards: Path,
    codec_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a semantic stage, hardly trained."""
    recipe, out = load_recipe("train_semantic"), tmp_path_factory.mktemp("semantic")
    settings = {"data": (token_shards,), "codec": codec_folder, "out": out, "steps": 1}
    recipe.main(replace(recipe.PRESETS["tiny"], context_seconds=0.4, **settings))
    return out


@pytest.fixture(scope="module")
def run(
    recipe: ModuleType, tiny: Any, semantic: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, list[float]]:
    """The settings and losses of a whole run."""
    config = replace(tiny, out=tmp_path_factory.mktemp("acoustic"), semantic=semantic)
    return config, recipe.main(config)


def test_the_loss_after_five_steps_is_pinned_and_it_falls(run: tuple[Any, list[float]]) -> None:
    losses = run[1]
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(3.28325, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_the_stage_that_is_written_follows_semantic_tokens(
    run: tuple[Any, list[float]], token_shards: Path
) -> None:
    stage = read_stage(run[0].out / "stage")
    shards = Shards(token_shards, "held_out")
    made = [
        sample_tokens(stage, num_frames=30, seed=0, source=shards.read(index, "semantic", 0, 15))
        for index in (0, 1)
    ]
    assert made[0].shape == (4, 30)
    assert not torch.equal(*made)


def test_the_whole_model_makes_sound(run: tuple[Any, list[float]]) -> None:
    model = lm_audio.load(run[0].out / "model")
    assert list(model.stages) == ["semantic", "acoustic"]
    assert model.generate("rain", duration=0.7, seed=1).samples.shape == (1, int(0.7 * 24_000))


def test_fewer_codebooks_than_the_codec_has_are_enough(
    recipe: ModuleType, tiny: Any, token_shards: Path, semantic: Path, tmp_path: Path
) -> None:
    for split in ("train", "held_out"):
        shards = Shards(token_shards, split)
        examples = [
            replace(each, streams={**each.streams, "acoustic": each.streams["acoustic"][:2]})
            for each in shards
        ]
        acoustic = replace(shards.streams["acoustic"], num_codebooks=2)
        streams = {**shards.streams, "acoustic": acoustic}
        write_shard(tmp_path / f"{split}-00000.safetensors", examples, streams)
    out = tmp_path / "out"
    recipe.main(replace(tiny, data=(tmp_path,), out=out, steps=1, semantic=semantic))
    assert lm_audio.load(out / "model").generate("rain", duration=0.2, seed=0).tokens.shape[0] == 2


def test_a_semantic_stage_of_other_tokens_is_a_mistake(
    recipe: ModuleType, tiny: Any, token_shards: Path, semantic: Path, tmp_path: Path
) -> None:
    for split in ("train", "held_out"):
        shards = Shards(token_shards, split)
        other = replace(shards.streams["semantic"], identity="trained anew")
        streams = {**shards.streams, "semantic": other}
        write_shard(tmp_path / f"{split}-00000.safetensors", list(shards), streams)
    with pytest.raises(
        ValueError, match=r"has learned semantic tokens of .* those of trained anew"
    ):
        recipe.main(replace(tiny, data=(tmp_path,), out=tmp_path / "out", semantic=semantic))


def test_the_last_checkpoints_and_the_best_are_kept(run: tuple[Any, list[float]]) -> None:
    checkpoints = Checkpoints(run[0].out / "checkpoints")
    found, best = checkpoints.found(), checkpoints.best()
    assert [each.step for each in found[-2:]] == [28, 30]
    assert best in found
    assert {20, 30} >= {each.step for each in found if each.loss is not None}


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType,
    run: tuple[Any, list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, losses = run
    config = replace(config, out=tmp_path)
    random = np.random.default_rng()
    update = recipe.Average.update
    first, again = sorted(random.choice(np.arange(1, STEPS), 2, replace=False).tolist())
    made: list[float] = []
    for last in (first, again, STEPS):

        def killed(average: Any, step: int, last: int = last) -> None:
            if step == last:
                raise KeyboardInterrupt
            update(average, step)

        with monkeypatch.context() as patch:
            patch.setattr(recipe.Average, "update", killed)
            if last < STEPS:
                with pytest.raises(KeyboardInterrupt):
                    recipe.main(config)
            else:
                made = recipe.main(config)
    assert made == losses[again // 4 * 4 :]
    whole, resumed = (
        torch.load(each.path, weights_only=True)
        for folder in (run[0].out, tmp_path)
        if (each := Checkpoints(folder / "checkpoints").latest())
    )
    for name, weight in whole["average"].items():
        assert torch.equal(resumed["average"][name], weight)


def test_the_stage_that_is_written_is_the_best_one_also_when_written_anew(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    config = replace(
        tiny, out=tmp_path, steps=4, evaluate_every=2, learning_rate=0.5, warmup_steps=1
    )
    recipe.main(config)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    best = checkpoints.best()
    assert best is not None
    assert best.step < config.steps  # so high a rate makes it worse
    averaged = checkpoints.read(best)["average"]
    for _ in range(2):
        stage = read_stage(tmp_path / "stage")
        for name, weight in stage.model.state_dict().items():
            assert torch.equal(weight, averaged[f"model.{name}"]), name
        shutil.rmtree(tmp_path / "stage")
        assert recipe.main(config) == []


def test_a_run_does_not_go_on_with_other_settings(
    recipe: ModuleType, run: tuple[Any, list[float]]
) -> None:
    with pytest.raises(ValueError, match=r"was made with seed=0 and now it is 1; go on with the"):
        recipe.main(replace(run[0], seed=1))


def test_the_tokens_of_another_codec_are_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"--codec is .* and the data's tokens were made by"):
        recipe.main(replace(tiny, out=tmp_path, codec=CODEC_FOLDER))


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_state(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    config = replace(tiny, out=tmp_path, steps=8, save_every=1, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="the last good one is") as error:
        recipe.main(config)
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is not None
    assert str(latest.path) in str(error.value)
