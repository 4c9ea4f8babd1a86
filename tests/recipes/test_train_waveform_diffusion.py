"""The recipe for Dance Diffusion: it learns, resumes exactly, fine-tunes and writes a model."""

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
from diffusers import DanceDiffusionPipeline
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lm_audio
from audio_tokenizers.audio_files import read_audio
from lm_audio.networks.unet1d import UNet1d
from lm_audio.sampling import Denoising
from lm_audio.training.diffusion_batches import NUM_BINS
from lm_audio.training.diffusion_objective import DiffusionObjective

SMALL: dict[str, Any] = {"batch_size": 2, "window": 256, "demos": 1, "demo_steps": 2}


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_waveform_diffusion")


def config(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    return replace(recipe.PRESETS["tiny"], out=out, **SMALL | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def run(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A run of the preset tiny, and its losses."""
    out = tmp_path_factory.mktemp("waveforms")
    return out, recipe.main(replace(recipe.PRESETS["tiny"], out=out, window=1024))


def test_the_loss_after_five_steps_is_pinned(recipe: ModuleType, tmp_path: Path) -> None:
    losses = recipe.main(config(recipe, tmp_path, steps=5))
    assert losses[-1] == pytest.approx(0.366817, rel=5e-3)


def test_the_tiny_preset_learns(run: tuple[Path, list[float]]) -> None:
    out, losses = run
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])
    log = EventAccumulator(str(out / "log"))
    log.Reload()
    assert log.Tags()["audio"] == ["demo 0"]
    names = {"train/loss", "held out/loss", *(f"held out/noise level {i}" for i in range(4))}
    assert names <= set(log.Tags()["scalars"])
    held_out = [event.value for event in log.Scalars("held out/loss")]
    assert held_out[-1] < held_out[0]


def test_demos_are_written_while_it_trains(run: tuple[Path, list[float]]) -> None:
    paths = sorted((run[0] / "demos").glob("*.wav"))
    assert [path.name for path in paths] == [f"step-000000{n}-0.wav" for n in (20, 40, 60)]
    for path in paths:
        assert read_audio(path).samples.shape == (1, 1024)


def test_one_batch_can_be_learned_by_heart(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    settings = config(recipe, Path("unused"), batch_size=4)
    stage = recipe.start_of(settings)
    clips = recipe.read_corpus(settings, 8_000).train
    batch = recipe.batches_of(clips, stage, settings, seed=0).batch(0)
    objective = DiffusionObjective(stage)
    optimizer = torch.optim.Adam(stage.network.parameters(), lr=2e-3)
    losses = []
    for _ in range(150):
        loss = objective(batch).sum() / batch.counts(NUM_BINS).sum()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-10:]) < 0.1 * losses[0]


def test_the_objective_is_the_error_of_v(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    settings = config(recipe, Path("unused"))
    stage = recipe.start_of(settings)
    clips = recipe.read_corpus(settings, 8_000).train
    batch = recipe.batches_of(clips, stage, settings, seed=0).batch(3)
    with torch.no_grad():
        made = DiffusionObjective(stage)(batch).sum() / batch.counts(NUM_BINS).sum()
        angle = batch.times[:, None, None] * torch.pi / 2
        x = angle.cos() * batch.latents + angle.sin() * batch.noise
        v = angle.cos() * batch.noise - angle.sin() * batch.latents
        output = stage.network(x, batch.times, recipe.Fused())
    torch.testing.assert_close(made, (output - v).square().mean())


def test_the_model_is_read_here_and_by_diffusers(run: tuple[Path, list[float]]) -> None:
    model = lm_audio.load(run[0] / "model")
    assert (model.sample_rate, model.num_channels) == (8_000, 1)
    assert model.stages["diffusion"].window_frames == 1024
    sampling = Denoising(steps=3, solver="ipndm", guidance_scale=1.0)
    clip = model.generate(duration=0.2, seed=1, sampling=sampling)
    assert clip.samples.shape == (1, 1600)
    pipeline = DanceDiffusionPipeline.from_pretrained(run[0] / "model")
    pipeline.set_progress_bar_config(disable=True)
    audio = pipeline(num_inference_steps=2, audio_length_in_s=0.1).audios
    assert np.isfinite(audio).all()


def test_a_killed_run_goes_on_with_the_same_losses(
    recipe: ModuleType, tmp_path: Path, killed_at: Callable[..., Any]
) -> None:
    settings: dict[str, Any] = {"steps": 8, "evaluate_every": 3}
    whole = recipe.main(config(recipe, tmp_path / "whole", **settings))
    last = int(np.random.default_rng().integers(3, 8))
    with killed_at(last):
        recipe.main(config(recipe, tmp_path / "killed", **settings))
    rest = recipe.main(config(recipe, tmp_path / "killed", **settings))
    assert rest == whole[last // 3 * 3 :], f"killed at step {last}"
    one, two = (weights(tmp_path / name) for name in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_model_is_kept(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = iter([0.3, 0.1, 0.2, 0.4])
    monkeypatch.setattr(recipe, "evaluate", lambda *_, **__: next(errors))
    saved = []
    write = recipe.write_dance_diffusion

    def writes(folder: Path, network: UNet1d, **rest: Any) -> None:
        saved.append({name: weight.clone() for name, weight in network.state_dict().items()})
        write(folder, network, **rest)

    monkeypatch.setattr(recipe, "write_dance_diffusion", writes)
    recipe.main(config(recipe, tmp_path, steps=8, evaluate_every=2))
    assert len(saved) == 2
    found = weights(tmp_path)
    assert all(torch.equal(found[name], saved[1][name]) for name in found)


def test_fine_tuning_starts_from_a_model(
    recipe: ModuleType, run: tuple[Path, list[float]], tmp_path: Path
) -> None:
    first = recipe.main(config(recipe, tmp_path / "new", steps=1))
    start = str(run[0] / "model")
    tuned = recipe.main(config(recipe, tmp_path / "tuned", steps=1, start=start))
    assert tuned[0] < 0.7 * first[0]
    model = lm_audio.load(tmp_path / "tuned" / "model")
    assert model.stages["diffusion"].window_frames == 256
    own = recipe.start_of(config(recipe, tmp_path, start=start, window=None))
    assert own.window_frames == 1024


def test_a_start_with_two_channels_keeps_them(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(config(recipe, tmp_path / "stereo", steps=1, channels=2, sample_rate=4_000))
    start = str(tmp_path / "stereo" / "model")
    recipe.main(config(recipe, tmp_path / "tuned", steps=1, start=start))
    model = lm_audio.load(tmp_path / "tuned" / "model")
    assert (model.num_channels, model.sample_rate) == (2, 4_000)


def test_a_window_that_the_network_cannot_take_is_rounded_up(
    recipe: ModuleType, tmp_path: Path
) -> None:
    for given, window in ((1, 24), (250, 256)):
        stage = recipe.start_of(config(recipe, tmp_path, window=given))
        assert stage.window_frames == window


def test_a_run_does_not_go_on_with_other_settings(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(config(recipe, tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"was made with window=256, got 512"):
        recipe.main(config(recipe, tmp_path, steps=2, window=512))


def test_a_dry_run_counts_the_published_weights(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = replace(
        recipe.PRESETS["paper"], out=tmp_path / "x", channels=2, dry_run=True, batch_size=1
    )
    assert recipe.main(paper) == []
    assert capsys.readouterr().out.startswith("221.4 M parameters")
    assert not (tmp_path / "x").exists()


def test_mistakes_get_one_sentence(recipe: ModuleType, tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"steps": 0}, r"steps must be at least 1, got 0"),
        ({"demos": -1}, r"demos must be at least 0, got -1"),
        ({"start": "x", "channels": 1}, r"have no effect with --start"),
    ):
        with pytest.raises(ValueError, match=sentence):
            recipe.Config(**wrong)
    with pytest.raises(ValueError, match=r"No training data for the preset 'default'; pass"):
        recipe.main(replace(recipe.PRESETS["tiny"], preset="default", out=tmp_path, window=512))
    with pytest.raises(ValueError, match=r"No such file or folder: \./nowhere"):
        recipe.main(config(recipe, tmp_path, start="./nowhere"))


@pytest.mark.slow
def test_two_processes_take_the_same_steps(recipe: ModuleType, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for out, count in zip(folders, ("1", "2"), strict=True):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--steps", "4"]
        settings = ["--window", "256", "--batch-size", "4", "--out", str(out)]
        subprocess.run(
            [sys.executable, *launch, *script, *settings], check=True, capture_output=True
        )
    one, two = (weights(out) for out in folders)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-4, rtol=1e-3)
