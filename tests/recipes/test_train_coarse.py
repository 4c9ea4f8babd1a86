"""The coarse recipe: the first codebooks follow the semantic tokens of the prepared data."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lm_audio.data.shards import Shards, write_shard
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import read_stage
from lm_audio.training.samples import sample_tokens

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 30


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_coarse")


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, token_shards: Path, codec_folder: Path) -> Any:
    return replace(
        recipe.PRESETS["tiny"],
        data=(token_shards,),
        codec=codec_folder,
        steps=STEPS,
        context_seconds=0.5,
    )


@pytest.fixture(scope="module")
def run(
    recipe: ModuleType, tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("coarse")
    return out, recipe.main(replace(tiny, out=out))


def test_the_loss_after_five_steps_is_pinned_and_it_falls(run: tuple[Path, list[float]]) -> None:
    losses = run[1]
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(1.79545, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_stage_that_is_written_follows_semantic_tokens(
    run: tuple[Path, list[float]], token_shards: Path
) -> None:
    stage = read_stage(run[0] / "stage")
    assert (stage.name, stage.num_codebooks, stage.context, stage.keep) == ("coarse", 2, 25, 7)
    shards = Shards(token_shards, "held_out")
    made = [
        sample_tokens(stage, num_frames=40, seed=0, source=shards.read(index, "semantic", 0, 20))
        for index in (0, 1)
    ]
    assert made[0].shape == (2, 40)
    assert not torch.equal(*made)


def test_coarse_codebooks_leave_some_to_the_fine_stage(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="--num-coarse is 4 and the shards have 4 codebooks"):
        recipe.main(replace(tiny, out=tmp_path, num_coarse=4))


def test_the_tokens_of_another_codec_are_a_mistake(
    recipe: ModuleType, tiny: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"--codec is .* and the data's tokens were made by"):
        recipe.main(replace(tiny, out=tmp_path, codec=CODEC_FOLDER))


def test_shards_without_semantic_tokens_are_a_mistake(
    recipe: ModuleType, tiny: Any, token_shards: Path, tmp_path: Path
) -> None:
    for split in ("train", "held_out"):
        shards = Shards(token_shards, split)
        examples = [
            replace(example, streams={"acoustic": example.streams["acoustic"]})
            for example in shards
        ]
        streams = {"acoustic": shards.streams["acoustic"]}
        write_shard(tmp_path / f"{split}-00000.safetensors", examples, streams)
    with pytest.raises(ValueError, match="The shards have acoustic and no semantic tokens"):
        recipe.main(replace(tiny, data=(tmp_path,), out=tmp_path))
