"""The codec recipe: its first losses are pinned, a killed run goes on as if it had not been."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from lm_audio.data.synthetic import demo_clip

LoadRecipe = Callable[[str], ModuleType]


def config(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    settings = {
        "out": out,
        "preset": "tiny",
        "batch_size": 2,
        "seconds": 0.4,
        "precision": "float32",
        "device": "cpu",
        **changes,
    }
    return recipe.Config(**settings)


def test_the_loss_after_five_steps_is_pinned(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("train_codec")
    losses = recipe.main(config(recipe, tmp_path, steps=5))
    assert losses[-1] == pytest.approx(6.3772, rel=5e-3)
    codec = load_frame_codec(tmp_path)
    samples = demo_clip(sample_rate=24_000)[None, None, :4800]
    assert codec.encode(recipe.torch.from_numpy(samples)).shape == (1, 4, 10)


def test_a_killed_run_goes_on_with_the_same_losses(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("train_codec")
    settings = {"steps": 12, "evaluate_every": 6}
    whole = recipe.main(config(recipe, tmp_path / "whole", **settings))

    evaluate, calls = recipe.evaluate, []

    def killed_the_second_time(*arguments: Any) -> str:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    recipe.evaluate = killed_the_second_time
    with pytest.raises(KeyboardInterrupt):
        recipe.main(config(recipe, tmp_path / "killed", **settings))
    recipe.evaluate = evaluate
    rest = recipe.main(config(recipe, tmp_path / "killed", **settings))
    assert rest == whole[6:]


def test_a_loss_that_is_not_finite_stops_with_the_checkpoint_named(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("train_codec")
    with pytest.raises(
        FloatingPointError, match=r"The loss is (nan|inf) at step \d+; the last good"
    ):
        recipe.main(config(recipe, tmp_path, steps=40, learning_rate=float("inf")))
