"""The codec recipe: its first losses are pinned, a killed run goes on as if it had not been."""

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
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from audio_tokenizers.acoustic.frame_codec import load_frame_codec
from audio_tokenizers.weights import read_pickle
from lm_audio.data.synthetic import demo_clip

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_codec")


def config(recipe: ModuleType, data: Path, out: Path, **changes: Any) -> Any:
    tiny = recipe.PRESETS["tiny"]
    return replace(tiny, data=(data,), out=out, batch_size=2, seconds=0.4, **changes)


def test_the_loss_after_five_steps_is_pinned(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    losses = recipe.main(config(recipe, sounds, tmp_path, steps=5))
    assert losses[-1] == pytest.approx(2.08968, rel=5e-3)
    codec = load_frame_codec(tmp_path)
    samples = torch.from_numpy(demo_clip(sample_rate=24_000)[None, None, :4800])
    assert codec.encode(samples).shape == (1, 4, 10)


def test_the_tiny_preset_learns_and_leaves_a_codec_and_its_log(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path, steps=24))
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    captured = capsys.readouterr()
    assert f"Wrote the codec to {tmp_path}. Try: lm-audio encode" in captured.out
    report = captured.err.replace("\r", "\n")
    assert re.search(r"step 24: chirp/2 .*share of codes used 0.*, perplexity \d", report)
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    heard = log.Audio("held out/chirp")[-1]
    assert (heard.sample_rate, heard.length_frames) == (24_000, 48_000)


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"steps": 10, "evaluate_every": 3}
    whole = recipe.main(config(recipe, sounds, tmp_path / "whole", **settings))
    last = int(np.random.default_rng().integers(3, 10))
    draw = recipe.SegmentSampler.batch

    def killed(sampler: Any, number: int, **part: int) -> torch.Tensor:
        if number == last:
            raise KeyboardInterrupt
        return draw(sampler, number, **part)

    with monkeypatch.context() as patch:
        patch.setattr(recipe.SegmentSampler, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe.main(config(recipe, sounds, tmp_path / "killed", **settings))
    with pytest.raises(ValueError, match=r"was made with data='.*', got '"):
        recipe.main(replace(config(recipe, sounds, tmp_path / "killed", **settings), data=()))
    rest = recipe.main(config(recipe, sounds, tmp_path / "killed", **settings))
    assert rest == whole[last // 3 * 3 :], f"killed at step {last}"
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_the_last_checkpoints_and_the_best_of_the_last_phase_are_kept(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    recipe.main(config(recipe, sounds, tmp_path, steps=8, evaluate_every=1, keep_last=1))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    steps = [int(re.match(r"step-(\d+)", name)[1]) for name in names]  # type: ignore[index]
    assert steps[-1] == 8
    assert len(steps) <= 2
    assert all(step > 2 for step in steps)  # the discriminator joined after 2 steps


def test_a_run_that_goes_astray_stops_with_the_last_good_checkpoint_named(
    recipe: ModuleType, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "learning_rate_share", lambda step, **_: 1 if step < 3 else 1e35)
    with pytest.raises(FloatingPointError, match=r"The loss is (nan|inf) .*step-00000002.*\.pt"):
        recipe.main(config(recipe, sounds, tmp_path, steps=40, evaluate_every=2))
    names = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert len(names) == 1
    assert names[0].startswith("step-00000002")


def test_another_setting_does_not_go_on_with_a_run(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    recipe.main(config(recipe, sounds, tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"was made with steps=2, got 3"):
        recipe.main(config(recipe, sounds, tmp_path, steps=3))


def test_shares_that_are_none_are_refused(recipe: ModuleType) -> None:
    for wrong in ({"quantised_from": 1.0}, {"adversarial_from": 1.2}, {"low_share": -0.1}):
        with pytest.raises(ValueError, match=r"expected values from 0 to 1"):
            recipe.Config(**wrong)


def test_low_bands_have_their_share_in_the_distance_of_levels(recipe: ModuleType) -> None:
    shape = recipe.SHAPES["default"][0]
    weights = recipe.level_weights(shape, low_share=0.8)
    assert weights.shape == (128,)
    assert weights.mean().item() == pytest.approx(1)
    assert (weights[: shape.linear_bands].sum() / weights.sum()).item() == pytest.approx(0.8)
    assert weights.unique().numel() == 2


def test_a_run_may_start_from_the_weights_and_codebooks_of_another(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    first = recipe.main(config(recipe, sounds, tmp_path / "first", steps=20))
    settings = {"start": tmp_path / "first", "quantised_from": 0.0, "steps": 2}
    second = recipe.main(config(recipe, sounds, tmp_path / "second", **settings))
    assert second[0] < 0.9 * first[0]
    with pytest.raises(ValueError, match=r"No codec checkpoint in .*none; pass the --out"):
        recipe.main(config(recipe, sounds, tmp_path / "third", start=tmp_path / "none", steps=2))


def test_a_decoder_that_learns_alone_leaves_the_tokens_as_they_are(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    recipe.main(config(recipe, sounds, tmp_path / "first", steps=5))
    settings = {"start": tmp_path / "first", "learns": "decoder", "steps": 4}
    recipe.main(config(recipe, sounds, tmp_path / "second", **settings))
    first, second = (load_frame_codec(tmp_path / name) for name in ("first", "second"))
    before, after = first.inference_weights(), second.inference_weights()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) > 10
    assert all(name.startswith("decoder.") for name in changed)
    samples = torch.from_numpy(demo_clip(sample_rate=24_000)[None, None])
    tokens = first.encode(samples)
    assert torch.equal(second.encode(samples), tokens)
    assert not torch.equal(second.decode(tokens), first.decode(tokens))
    with pytest.raises(ValueError, match=r"--learns decoder needs --start, the run whose"):
        recipe.Config(learns="decoder")


def test_a_dry_run_prints_what_the_paper_preset_takes(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main(replace(recipe.PRESETS["paper"], out=tmp_path / "x", dry_run=True)) == []
    table = capsys.readouterr().out
    parts = recipe.SHAPES["paper"]
    modules = recipe.FrameCodec(parts[0]), recipe.Discriminator(parts[1])
    number = sum(w.numel() for module in modules for w in module.parameters())
    assert float(table.split(" M parameters")[0]) == pytest.approx(number / 1e6, rel=2e-3)
    assert re.search(r"\n\| 64 \| 1 \|", table)
    assert not (tmp_path / "x").exists()


def test_numbers_without_sense_are_refused(recipe: ModuleType) -> None:
    for name in ("steps", "batch_size", "evaluate_every"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            replace(recipe.PRESETS["tiny"], **{name: 0})


def test_presets_for_real_sounds_ask_for_them(recipe: ModuleType, tmp_path: Path) -> None:
    settings = replace(recipe.PRESETS["tiny"], preset="default", out=tmp_path)
    with pytest.raises(ValueError, match=r"No training data for the preset 'default'; pass"):
        recipe.read_corpus(settings, 24_000)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(
    recipe: ModuleType, sounds: Path, tmp_path: Path
) -> None:
    """Before the quantiser joins, whose random choices belong to a process."""
    folders = [tmp_path / name for name in ("one", "two")]
    for out, count in zip(folders, ("1", "2"), strict=True):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--steps", "3"]
        settings = ["--batch-size", "4", "--seconds", "0.4", "--quantised-from", "0.9"]
        places = ["--data", str(sounds), "--out", str(out), "--adversarial-from", "0.5"]
        subprocess.run(
            [sys.executable, *launch, *script, *settings, *places], check=True, capture_output=True
        )
    one, two = (
        read_pickle(next((out / "checkpoints").glob("step-00000003*.pt"))) for out in folders
    )
    for name in ("codec", "discriminator"):
        for key, weight in one[name].items():
            # AdamW moves even a weight whose gradient is rounding alone.
            assert (weight.float() - two[name][key].float()).abs().mean() < 2e-5, key


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
