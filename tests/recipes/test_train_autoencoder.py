"""The recipe for autoencoders of spectrograms: it learns, resumes exactly, keeps its best model."""

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
import torch.nn.functional as F
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lm_audio.networks.autoencoder2d import Autoencoder2d
from lm_audio.saving.part_folder import read_network
from lm_audio.saving.spectrograms import autoencoder_config
from lm_audio.training.checkpoints import Checkpoints


@pytest.fixture
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_autoencoder")


def config(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    return replace(recipe.PRESETS["tiny"], out=out, batch_size=2, seconds=0.4, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "diffusion_pytorch_model.safetensors")


def test_the_loss_after_five_steps_is_pinned(recipe: ModuleType, tmp_path: Path) -> None:
    losses = recipe.main(config(recipe, tmp_path, steps=5, learning_rate=1e-3))
    assert losses[-1] == pytest.approx(4.45898, rel=5e-3)


def test_the_tiny_preset_learns_in_both_phases(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path))
    assert np.mean(losses[-16:]) < 0.6 * np.mean(losses[:16])  # with the discriminator
    shown = capsys.readouterr()
    assert f"Wrote the autoencoder to {tmp_path / 'model'}." in shown.out
    assert "step 80: chirp " in shown.err
    # The stored scale standardises latents of training sounds.
    model, _ = read_network(tmp_path / "model", Autoencoder2d, autoencoder_config)
    log_mel = recipe.SHAPES["tiny"][1]
    clips = recipe.read_corpus(recipe.PRESETS["tiny"], 8_000).train
    sampler = recipe.SegmentSampler(clips, length=24 * 320, batch_size=64, seed=9)
    true = recipe.images_of(sampler.batch(0), log_mel)
    latents = model.encode(true)[0]
    scale = recipe.scale_of(model, log_mel, sampler, first=1)
    assert float(latents.std() * scale) == pytest.approx(1, rel=0.05)
    # Reconstructions beat the mean of each band, which needs no latents.
    error = F.l1_loss(model.decode(latents), true)
    assert error < 0.7 * F.l1_loss(true.mean(dim=(0, 2), keepdim=True).expand_as(true), true)


def test_new_models_start_from_the_statistics_of_spectrograms(recipe: ModuleType) -> None:
    shape = recipe.SHAPES["tiny"][0]
    images = 3 * torch.randn(2, 1, 16, 32, generator=torch.Generator().manual_seed(0)) - 7
    torch.manual_seed(0)
    plain = Autoencoder2d(shape)
    changed = Autoencoder2d(shape)
    changed.load_state_dict(plain.state_dict())
    recipe.standardise(changed, images)
    standard = (images - images.mean()) / images.std()
    inside = (..., slice(1, -1), slice(1, -1))  # convolutions pad with zeros
    torch.testing.assert_close(
        changed.encoder.conv_in(images)[inside], plain.encoder.conv_in(standard)[inside],
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
    x = torch.randn(1, shape.widths[0], 8, 8)
    expected = plain.decoder.conv_out(x) - plain.decoder.conv_out.bias
    found = (changed.decoder.conv_out(x) - images.mean()) / images.std()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_divergence_is_that_of_torch(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder2d(recipe.SHAPES["tiny"][0])
    x = torch.randn(2, 1, 16, 32)
    _, divergence = recipe.Reconstruction(autoencoder)(x)
    mean, deviation = autoencoder.encode(x)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, deviation), normal(0.0, 1.0))
    torch.testing.assert_close(divergence, expected.mean(), rtol=1e-4, atol=1e-6)


def test_a_killed_run_goes_on_with_the_same_losses(
    recipe: ModuleType, tmp_path: Path, killed_at: Callable[..., Any]
) -> None:
    settings: dict[str, Any] = {"steps": 8, "evaluate_every": 3, "adversarial_from": 0.5}
    whole = recipe.main(config(recipe, tmp_path / "whole", **settings))
    last = int(np.random.default_rng().integers(3, 8))
    with killed_at(last):
        recipe.main(config(recipe, tmp_path / "killed", **settings))
    rest = recipe.main(config(recipe, tmp_path / "killed", **settings))
    assert rest == whole[last // 3 * 3 :], f"killed at step {last}"
    one, two = (weights(tmp_path / run) for run in ("whole", "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_best_model_is_kept(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error rises in the last phase, whose first model stays."""
    errors = iter([0.1, 3.0, 4.0, 5.0])
    monkeypatch.setattr(recipe, "evaluate", lambda *_, **__: next(errors))
    saved = []
    write = recipe.write_autoencoder

    def writes(folder: Path, model: Autoencoder2d, **rest: Any) -> None:
        saved.append({name: weight.clone() for name, weight in model.state_dict().items()})
        write(folder, model, **rest)

    monkeypatch.setattr(recipe, "write_autoencoder", writes)
    recipe.main(config(recipe, tmp_path, steps=8, evaluate_every=2, adversarial_from=0.25))
    assert len(saved) == 2  # before the discriminator, whose losses do not compare, and the best
    found = weights(tmp_path)
    assert all(torch.equal(found[name], saved[1][name]) for name in found)
    best = Checkpoints(tmp_path / "checkpoints").best()
    assert best is not None
    assert best.step == 4


def test_a_run_does_not_go_on_with_other_settings(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(config(recipe, tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"was made with steps=2, got 3"):
        recipe.main(config(recipe, tmp_path, steps=3))


def test_a_dry_run_counts_the_published_weights(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = replace(recipe.PRESETS["paper"], out=tmp_path / "x", dry_run=True)
    assert recipe.main(paper) == []
    table = capsys.readouterr().out
    shape, _, judge = recipe.SHAPES["paper"]
    with torch.device("meta"):
        autoencoder, discriminator = Autoencoder2d(shape), recipe.Discriminator(judge)
    assert sum(weight.numel() for weight in autoencoder.parameters()) == 55_376_873  # AudioLDM's
    number = 55_376_873 + sum(weight.numel() for weight in discriminator.parameters())
    assert float(table.split(" M parameters")[0]) == pytest.approx(number / 1e6, rel=2e-3)
    assert not (tmp_path / "x").exists()


def test_mistakes_get_one_sentence(recipe: ModuleType, tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"adversarial_from": 1.5}, r"adversarial_from must be from 0 to 1, got 1.5"),
        ({"divergence_weight": -1.0}, r"divergence_weight must be at least 0, got -1.0"),
        ({"steps": 0}, r"steps must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            recipe.Config(**wrong)
    with pytest.raises(ValueError, match=r"No training data for the preset 'default'; pass"):
        recipe.main(replace(recipe.PRESETS["tiny"], preset="default", out=tmp_path))
    with pytest.raises(ValueError, match=r"is not a folder"):
        recipe.main(config(recipe, tmp_path, data=(tmp_path / "nowhere",)))


@pytest.mark.slow
def test_two_processes_train_in_both_phases(recipe: ModuleType, tmp_path: Path) -> None:
    """Batches are halved, and the same steps are taken; random latents and norms differ."""
    folders = [tmp_path / name for name in ("one", "two")]
    for out, count in zip(folders, ("1", "2"), strict=True):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--steps", "8"]
        settings = ["--seconds", "0.4", "--adversarial-from", "0.5", "--out", str(out)]
        subprocess.run(
            [sys.executable, *launch, *script, *settings], check=True, capture_output=True
        )
    logs = [EventAccumulator(str(out / "log")) for out in folders]
    for log in logs:
        log.Reload()
    for name, share in (("reconstruction", 0.03), ("gradient norm", 0.06)):
        one, two = (log.Scalars(f"train/{name}")[0].value for log in logs)
        assert two == pytest.approx(one, rel=share)
    first, second = (weights(out) for out in folders)
    assert max((first[name] - second[name]).abs().mean() for name in first) < 0.03
