"""The recipe for diffusion transformers over a codec's latents."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lm_audio
from lm_audio.data.synthetic import demo_clip
from lm_audio.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 20
TINY = {
    "steps": STEPS,
    "context_seconds": 0.5,
    "frames_per_batch": 200,
    "evaluate_every": 10,
    "save_every": 4,
}

Run = tuple[Any, list[float]]
Settings = Callable[..., Any]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_diffusion")


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, token_shards: Path, codec_folder: Path) -> Settings:
    def make(**changes: Any) -> Any:
        given = {"data": (token_shards,), "codec": codec_folder, **TINY}
        return replace(recipe.PRESETS["tiny"], **given | changes)

    return make


@pytest.fixture(scope="module")
def alone(recipe: ModuleType, tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run of a model of text and labels."""
    config = tiny(out=tmp_path_factory.mktemp("alone"), labels=("label",))
    return config, recipe.main(config)


def test_the_loss_after_five_steps_is_pinned_and_it_falls(alone: Run) -> None:
    _, losses = alone
    assert len(losses) == STEPS
    assert losses[4] == pytest.approx(1.69946, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.93 * np.mean(losses[:3])


def test_the_model_makes_continues_and_fills_sound(alone: Run) -> None:
    model = lm_audio.load(alone[0].out / "model")
    assert model.conditions == ("text", "label")
    clip = model.generate("rain", duration=0.7, seed=1, conditions={"label": "rain"})
    assert clip.samples.shape == (1, 16_800)
    prompt = torch.from_numpy(demo_clip(sample_rate=24_000)[None, :12_000])
    longer = model.continue_from((prompt, 24_000), duration=0.25, seed=1)
    assert torch.equal(longer.samples[:, :12_000], prompt)
    filled = model.inpaint((prompt, 24_000), start=0.2, end=0.3, seed=1)
    assert torch.equal(filled.samples[:, :4800], prompt[:, :4800])


def test_samples_are_logged_as_sound_and_losses_by_noise_level(alone: Run) -> None:
    log = EventAccumulator(str(alone[0].out / "log"))
    log.Reload()
    assert log.Tags()["audio"] == ["sample 0", "sample 1", "sample 2"]
    assert {f"train/noise level {i}" for i in range(4)} < set(log.Tags()["scalars"])


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType, alone: Run, tmp_path: Path, killed_at: Callable[..., Any]
) -> None:
    whole_run, losses = alone
    config = replace(whole_run, out=tmp_path)
    last = int(np.random.default_rng().integers(1, STEPS))
    with killed_at(last):
        recipe.main(config)
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    resumed_at = 0 if latest is None else latest.step
    assert recipe.main(config) == losses[resumed_at:]
    whole, resumed = (
        torch.load(each.path, weights_only=True)
        for folder in (whole_run.out, tmp_path)
        if (each := Checkpoints(folder / "checkpoints").latest())
    )
    for name, weight in whole["average"].items():
        assert torch.equal(resumed["average"][name], weight)


def test_a_run_does_not_go_on_with_other_settings(recipe: ModuleType, alone: Run) -> None:
    with pytest.raises(ValueError, match=r"was made with seed=0, got 1"):
        recipe.main(replace(alone[0], seed=1))


def test_a_trained_model_is_distilled_to_few_steps_without_guidance(
    recipe: ModuleType, alone: Run, tiny: Settings, tmp_path: Path
) -> None:
    teacher = alone[0].out / "model"
    config = tiny(out=tmp_path / "fast", distill=teacher, distilled_steps=4, learning_rate=3e-3)
    losses = recipe.main(config)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    model = lm_audio.load(tmp_path / "fast/model")
    assert model.conditions == ("text", "label")
    defaults = model.stages["latents"].sampling
    assert defaults == lm_audio.Denoising(steps=4, solver="ping-pong", guidance_scale=1.0)

    clip = model.generate("rain", duration=0.5, seed=1, conditions={"label": "rain"})
    assert clip.samples.shape == (1, 12_000)
    assert recipe.main(replace(config, steps=STEPS)) == []  # already trained
    with pytest.raises(ValueError, match="was made with teacher="):
        recipe.main(replace(config, distill=tmp_path / "fast/model"))


def test_what_cannot_be_distilled_is_refused(
    recipe: ModuleType, tiny: Settings, trained: Callable[[str], Run], tmp_path: Path
) -> None:
    tokens = trained("duet acoustic")[0].out / "model"
    with pytest.raises(ValueError, match=r"The last stage of the model in .* does not denoise"):
        recipe.main(tiny(out=tmp_path, distill=tokens))
    with pytest.raises(ValueError, match="--semantic has no effect with --distill"):
        tiny(out=tmp_path, distill=tokens, semantic=tmp_path)


def test_it_follows_a_semantic_stage(
    recipe: ModuleType,
    tiny: Settings,
    trained: Callable[[str], Run],
    semantic_tokenizer: Path,
    tokenizer_shards: Path,
    tmp_path: Path,
) -> None:
    semantic = trained("duet semantic")[0].out
    config = tiny(out=tmp_path, semantic=semantic, steps=2)
    recipe.main(config)
    model = lm_audio.load(tmp_path / "model")
    assert list(model.stages) == ["semantic", "latents"]
    clip = model.generate("rain", duration=0.7, seed=1)
    assert clip.samples.shape == (1, 16_800)
    with pytest.raises(ValueError, match="--semantic-tokenizer has no effect"):
        tiny(out=tmp_path, semantic_tokenizer=semantic_tokenizer)
    with pytest.raises(ValueError, match="was trained on semantic tokens of made up"):
        recipe.main(replace(config, data=(tokenizer_shards,), out=tmp_path / "other"))


@pytest.mark.parametrize(
    "settings",
    [
        {"predicts": "v", "noise": "cosine"},
        {"predicts": "epsilon", "noise": "scaled_linear", "optimizer": "muon"},
        {"patch": 2, "recompute": True},
        {"prompt_share": 0.0, "span_share": 0.0},
    ],
)
def test_other_targets_and_shapes_learn(
    recipe: ModuleType, tiny: Settings, tmp_path: Path, settings: dict[str, Any]
) -> None:
    losses = recipe.main(tiny(out=tmp_path, steps=6, learning_rate=3e-3, **settings))
    assert losses[-1] < losses[0]
    clip = lm_audio.load(tmp_path / "model").generate("rain", duration=0.3, seed=1)
    assert clip.samples.shape == (1, 7200)


def test_stereo_is_learnt_with_a_mono_codec(
    recipe: ModuleType, tiny: Settings, stereo_shards: Path, tmp_path: Path
) -> None:
    recipe.main(tiny(out=tmp_path, steps=1, data=(stereo_shards,), channels=2))
    clip = lm_audio.load(tmp_path / "model").generate("rain", duration=0.3, seed=1)
    assert clip.samples.shape == (2, 7200)
    with pytest.raises(ValueError, match="--codec with --channels"):
        recipe.main(tiny(out=tmp_path / "mono", data=(stereo_shards,)))


def test_a_dry_run_counts_the_weights_and_writes_nothing(
    recipe: ModuleType, tiny: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recipe.main(tiny(out=tmp_path, dry_run=True)) == []
    assert "million weights are trained" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_mistakes_are_refused(recipe: ModuleType, tiny: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no labels 'speaker'"):
        recipe.main(tiny(out=tmp_path, labels=("speaker",)))
    with pytest.raises(ValueError, match="cannot predict epsilon with a flow schedule"):
        recipe.main(tiny(out=tmp_path, predicts="epsilon"))
    with pytest.raises(ValueError, match="add up to at most 1"):
        tiny(out=tmp_path, prompt_share=0.9, span_share=0.2)
    with pytest.raises(ValueError, match="frames_per_batch must be at least 1"):
        tiny(out=tmp_path, frames_per_batch=0)
