"""The masked model recipe: first losses are pinned, a killed run goes on as if it had not been."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from audio_tokenizers.semantic.masked_model import load_masked_model

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_masked_model")


def config(recipe: ModuleType, data: Path, out: Path, **changes: Any) -> Any:
    tiny = recipe.PRESETS["tiny"]
    return replace(tiny, data=(data,), out=out, batch_size=2, seconds=0.8, **changes)


def test_the_loss_after_five_steps_is_pinned(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    losses = recipe.main(config(recipe, sounds, tmp_path, steps=5))
    assert losses[-1] == pytest.approx(5.6979, rel=5e-3)
    features = load_masked_model(tmp_path).features(torch.zeros(1, 1, 24_000), 2)
    assert features.shape == (1, 25, 32)


def test_the_tiny_preset_learns_and_leaves_a_model_and_its_log(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path, steps=30))
    assert losses[0] > 6.5  # log 1024 = 6.9 is chance
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    captured = capsys.readouterr()
    assert f"train_semantic_codebook.py --model {tmp_path}" in captured.out
    found = re.search(r"accuracy/chirp ([\d.]+), .*perplexity of targets ([\d.]+)", captured.err)
    assert found is not None
    assert float(found[1]) > 2 / float(found[2])
    assert list((tmp_path / "log").glob("events.*"))


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 10, "evaluate_every": 3}
    whole = recipe.main(config(recipe, sounds, tmp_path / "whole", **settings))
    last = int(np.random.default_rng().integers(3, 10))
    rate = recipe.learning_rate_share

    def killed(step: int, **rest: Any) -> float:
        if step == last:
            raise KeyboardInterrupt
        return rate(step, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "learning_rate_share", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe.main(config(recipe, sounds, tmp_path / "killed", **settings))
    with pytest.raises(ValueError, match=r"was made with data='.*', got '"):
        recipe.main(replace(config(recipe, sounds, tmp_path / "killed", **settings), data=()))
    rest = recipe.main(config(recipe, sounds, tmp_path / "killed", **settings))
    assert rest == whole[last // 3 * 3 :], f"killed at step {last}"
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_a_run_that_goes_astray_stops_with_the_last_good_checkpoint_named(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "learning_rate_share", lambda step, **_: 1 if step < 3 else 1e38)
    with pytest.raises(FloatingPointError, match=r"The loss is (nan|inf) .*step-00000002.*\.pt"):
        recipe.main(config(recipe, sounds, tmp_path, steps=40, evaluate_every=2))


def test_a_dry_run_prints_what_the_paper_preset_takes(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main(replace(recipe.PRESETS["paper"], out=tmp_path / "x", dry_run=True)) == []
    table = capsys.readouterr().out
    assert table.startswith("306.9 M parameters")
    assert re.search(r"\n\| 256 \| 1 \|", table)
    # Six for each weight and frame, and attention.
    flops = float(re.search(r"([\d.e+]+) TFLOP a step of 256", table)[1])  # type: ignore[index]
    assert flops * 1e12 == pytest.approx(6 * 306.9e6 * 400 * 256, rel=0.1)
    assert not (tmp_path / "x").exists()


def test_numbers_without_sense_are_refused(recipe: ModuleType) -> None:
    for name in ("steps", "batch_size", "evaluate_every"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            replace(recipe.PRESETS["tiny"], **{name: 0})


def test_presets_for_real_sounds_ask_for_them(recipe: ModuleType, tmp_path: Path) -> None:
    settings = replace(recipe.PRESETS["tiny"], preset="small", out=tmp_path)
    with pytest.raises(ValueError, match=r"No training data for the preset 'small'; pass"):
        recipe.read_corpus(settings, 24_000)


@pytest.mark.slow
def test_processes_without_gpus_find_each_other(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each would train a model of its own, in one folder; three segments are for no two."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--batch-size", "3"]
    places = ["--data", str(sounds), "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *launch, *script, *places], capture_output=True, text=True, check=False
    )
    assert "--batch-size 3 must be a multiple of the number of processes, 2" in done.stderr
