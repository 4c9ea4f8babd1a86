"""The RAVE recipe: its first losses are pinned, two phases, exact resumption, analysed latents."""

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

import lm_audio
from audio_tokenizers.acoustic.rave import load_rave
from audio_tokenizers.weights import read_pickle
from lm_audio.data.synthetic import demo_clip, synthetic_clips
from lm_audio.data.synthetic_shards import make_up_shards

LoadRecipe = Callable[[str], ModuleType]


@pytest.fixture
def recipe(load_recipe: LoadRecipe) -> ModuleType:
    return load_recipe("train_rave")


def config(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    return replace(recipe.PRESETS["tiny"], out=out, batch_size=2, seconds=0.3, **changes)


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    codec = load_rave(folder)
    return {n: w for n, w in codec.inference_weights().items() if n.startswith(part)}


def test_the_loss_after_five_steps_is_pinned(recipe: ModuleType, tmp_path: Path) -> None:
    losses = recipe.main(config(recipe, tmp_path, steps=5))
    assert losses[-1] == pytest.approx(9.40473, rel=5e-3)
    codec = load_rave(tmp_path)
    samples = torch.from_numpy(demo_clip(sample_rate=8_000)[None, None, :12800])
    assert codec.encode(samples).shape == (1, 4, 100)
    assert codec.latents(samples).shape == (1, 8, 100)


def test_the_tiny_preset_learns_in_both_phases_and_analyses_its_latents(
    recipe: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = synthetic_clips(num_clips=24, seconds=2.0, sample_rate=8_000, seed=0)
    plucks = [clip for clip in clips if clip.kind == "pluck"]
    corpus = recipe.Corpus(train=plucks[2:], held_out=plucks[:2])
    monkeypatch.setattr(recipe, "read_corpus", lambda *_: corpus)
    losses = recipe.main(replace(recipe.PRESETS["tiny"], out=tmp_path, adversarial_from=0.8))
    assert np.mean(losses[27:32]) < 0.75 * np.mean(losses[:5])  # the encoder learns for 32 steps
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    shown = capsys.readouterr()
    assert re.search(r"step 40: pluck \d+\.\d+", shown.err.replace("\r", "\n"))
    latents = r"Latents: share of variance by dimensions 1: 0\.\d+, .* (\d) quantised with a relati"
    found = re.search(latents, shown.out)
    assert found is not None
    codec = load_rave(tmp_path)
    assert codec.config.quantised_dims == int(found[1])
    assert float(codec.fidelity[int(found[1]) - 1]) >= 0.95
    assert f"Try: lm-audio transfer FILE --codec {tmp_path}" in shown.out


def test_the_second_phase_trains_the_decoder_alone(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(config(recipe, tmp_path / "first", steps=4, adversarial_from=1.0))
    settings = {"start": tmp_path / "first", "steps": 4, "adversarial_from": 0.0}
    recipe.main(config(recipe, tmp_path / "second", **settings))
    before, after = (weights(tmp_path / run, "encoder.") for run in ("first", "second"))
    for name in before:  # weight normalisation rounds
        torch.testing.assert_close(after[name], before[name], rtol=1e-5, atol=1e-6)
    before, after = (weights(tmp_path / run, "decoder.") for run in ("first", "second"))
    assert all((after[name] - before[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.parametrize("variant", ["tiny", "discrete"])
def test_a_killed_run_goes_on_with_the_same_losses(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    settings: dict[str, Any] = {"steps": 8, "evaluate_every": 3}
    if variant == "discrete":
        shape = recipe.VARIANTS["tiny"](bottleneck="discrete", quantised_dims=8, noise_channels=8)
        monkeypatch.setitem(recipe.VARIANTS, "tiny", lambda **changes: replace(shape, **changes))
    whole = recipe.main(config(recipe, tmp_path / "whole", **settings))
    last = int(np.random.default_rng().integers(3, 8))
    draw = recipe.SegmentSampler.batch

    def killed(sampler: Any, number: int, **part: int) -> torch.Tensor:
        if number == last:
            raise KeyboardInterrupt
        return draw(sampler, number, **part)

    with monkeypatch.context() as patch:
        patch.setattr(recipe.SegmentSampler, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe.main(config(recipe, tmp_path / "killed", **settings))
    rest = recipe.main(config(recipe, tmp_path / "killed", **settings))
    assert rest == whole[last // 3 * 3 :], f"killed at step {last}"
    saved = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert saved[0] == saved[1]


def test_latents_of_a_finished_model_can_be_analysed_again(
    recipe: ModuleType, tmp_path: Path
) -> None:
    recipe.main(config(recipe, tmp_path / "first", steps=3))
    settings = {"start": tmp_path / "first", "steps": 0, "fidelity": 1.0, "num_codebooks": 2}
    assert recipe.main(config(recipe, tmp_path / "second", **settings)) == []
    first, second = load_rave(tmp_path / "first"), load_rave(tmp_path / "second")
    assert (second.config.quantised_dims, second.num_codebooks) == (8, 2)
    for name, weight in weights(tmp_path / "second", "decoder.").items():
        wanted = first.get_parameter(name)
        torch.testing.assert_close(weight, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"--steps 0 only analyses a model; give one as --start"):
        recipe.Config(steps=0)


def test_the_weight_of_the_divergence_rises_to_its_end(recipe: ModuleType) -> None:
    settings, shape = recipe.Config(), recipe.VARIANTS["v2"]()
    found = [recipe.regularisation_weight(settings, shape, step) for step in (0, 10_000, 20_000)]
    assert found == pytest.approx([1e-6, (1e-6 * 5e-2) ** 0.5, 5e-2])
    assert recipe.regularisation_weight(settings, shape, 99_000) == pytest.approx(5e-2)
    assert recipe.regularisation_weight(settings, recipe.VARIANTS["discrete"](), 0) == 1


def test_another_setting_does_not_go_on_with_a_run(recipe: ModuleType, tmp_path: Path) -> None:
    recipe.main(config(recipe, tmp_path, steps=2))
    with pytest.raises(ValueError, match=r"was made with steps=2, got 3"):
        recipe.main(config(recipe, tmp_path, steps=3))


def test_a_dry_run_prints_what_the_paper_preset_takes(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = replace(recipe.PRESETS["paper"], out=tmp_path / "x", dry_run=True)
    assert recipe.main(paper) == []
    table = capsys.readouterr().out
    with torch.device("meta"):
        judge = recipe.WaveformDiscriminator(recipe.DISCRIMINATORS["paper"], num_channels=1)
    number = 16_046_592 + 15_467_520 + sum(weight.numel() for weight in judge.parameters())
    assert float(table.split(" M parameters")[0]) == pytest.approx(number / 1e6, rel=2e-3)
    assert not (tmp_path / "x").exists()


def test_mistakes_get_one_sentence(recipe: ModuleType, tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"discriminator_every": 1}, r"discriminator_every must be at least 2, got 1"),
        ({"adversarial_from": 1.5}, r"adversarial_from must be from 0 to 1, got 1.5"),
    ):
        with pytest.raises(ValueError, match=sentence):
            recipe.Config(**wrong)
    with pytest.raises(ValueError, match=r"No training data for the preset 'default'; pass"):
        recipe.main(replace(recipe.PRESETS["tiny"], preset="default", out=tmp_path))


def test_a_language_model_of_its_tokens_is_trained_saved_and_played(
    recipe: ModuleType, load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe.main(config(recipe, tmp_path / "rave", steps=6, fidelity=0.99))
    codec = load_rave(tmp_path / "rave")
    shards = make_up_shards(tmp_path / "tokens", codec)
    train_stage = load_recipe("train_stage")
    tiny = train_stage.PRESETS["audiocraft"]["acoustic"]["tiny"]
    settings = {"data": (shards,), "codec": tmp_path / "rave", "out": tmp_path / "lm"}
    losses = train_stage.main(
        replace(tiny, **settings, steps=8, context_seconds=0.5, tokens_per_batch=800)
    )
    assert losses[-1] < losses[0]

    model = lm_audio.load(tmp_path / "lm" / "model", device="cpu")
    assert (model.sample_rate, model.num_channels) == (8_000, 1)
    assert model.renderer.identity.startswith(f"{codec.identity}-")
    clip = model.generate("rain", duration=1.0, seed=3)
    assert clip.samples.shape == (1, 8_000)
    assert clip.tokens.shape == (4, 63)  # 62.5 frames
    streamed = torch.cat(list(model.stream("rain", duration=1.0, seed=3)), dim=1)
    assert torch.equal(streamed, clip.samples)
    both = model.generate(["rain", "a bird"], duration=1.0, seed=[3, 4])
    assert torch.equal(both[0].samples, clip.samples)
    prompt = tmp_path / "prompt.wav"
    clip.save(prompt)
    longer = model.continue_from(prompt, duration=0.5, seed=1)
    assert longer.samples.shape == (1, 12_000)
    torch.testing.assert_close(longer.samples[:, :8_000], clip.samples, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_two_processes_train_in_both_phases(recipe: ModuleType, tmp_path: Path) -> None:
    """Batches are halved, and the same steps are taken; a norm over a batch differs a little."""
    folders = [tmp_path / name for name in ("one", "two")]
    for out, count in zip(folders, ("1", "2"), strict=True):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
        script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--steps", "8"]
        settings = ["--seconds", "0.3", "--adversarial-from", "0.5", "--out", str(out)]
        subprocess.run(
            [sys.executable, *launch, *script, *settings], check=True, capture_output=True
        )
    one, two = (
        read_pickle(next((out / "checkpoints").glob("step-00000008*.pt"))) for out in folders
    )
    for part in ("codec", "discriminator"):
        moved = [
            (one[part][name].float() - two[part][name].float()).abs().mean()
            for name in one[part]
            if "original1" in name
        ]
        assert max(moved) < 0.05
    for out in folders:
        assert load_rave(out).has_codebooks
