"""The recipe for cascades of waveforms: each stage learns, resumes exactly and writes a model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import lm_audio
from audio_tokenizers.resampling import resample
from lm_audio.data.shards import Example, Shards, samples_stream, shard_path, write_shard
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from lm_audio.training.cascade_batches import CascadeBatches
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.diffusion_batches import NUM_BINS
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.stage_batches import Dropout

pytestmark = pytest.mark.usefixtures("steady_weights")

STEPS = 16
SHORT = {
    "steps": STEPS, "batch_size": 4, "evaluate_every": 8, "evaluate_batches": 1, "save_every": 3,
}  # fmt: skip
FEW = Denoising(steps=2, solver="ddim", guidance_scale=1.0)
GENERATOR, CASCADER = 0.546349, 0.567417  # losses
Run = tuple[Any, list[float]]
Settings = Callable[..., Any]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_cascade")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of samples at 8 kHz, with captions."""
    return make_up_shards(tmp_path_factory.mktemp("sounds"), None, sample_rate=8_000)


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, sounds: Path) -> Settings:
    def make(stage: str, **changes: Any) -> Any:
        window = {"generator": 0.06, "cascader": 0.03}[stage]
        given = {"data": (sounds,), "window_seconds": window, **SHORT}
        return replace(recipe.PRESETS[stage]["tiny"], **given | changes)

    return make


@pytest.fixture(scope="module")
def generator(recipe: ModuleType, tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny("generator", out=tmp_path_factory.mktemp("generator"))
    return config, recipe.main(config)


@pytest.fixture(scope="module")
def cascader(
    recipe: ModuleType, tiny: Settings, generator: Run, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    after = generator[0].out / "model"
    config = tiny("cascader", out=tmp_path_factory.mktemp("cascader"), after=after)
    return config, recipe.main(config)


def stage_of(recipe: ModuleType, config: Any) -> DiffusionStage:
    torch.manual_seed(0)
    stage = recipe.new_model(config, Shards(config.data)).stages[-1]
    assert isinstance(stage, DiffusionStage)
    return stage


def test_the_losses_after_five_steps_are_pinned_and_they_fall(
    generator: Run, cascader: Run
) -> None:
    for (_, losses), pinned in ((generator, GENERATOR), (cascader, CASCADER)):
        assert len(losses) == STEPS
        assert losses[4] == pytest.approx(pinned, rel=5e-3)
        assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_the_last_run_writes_the_whole_cascade(generator: Run, cascader: Run) -> None:
    model = lm_audio.load(cascader[0].out / "model")
    assert list(model.stages) == ["generator", "cascader-8000"]
    assert (model.sample_rate, model.conditions) == (8_000, ("text", "level"))
    before = lm_audio.load(generator[0].out / "model")
    assert before.sample_rate == 2_000
    for name, weight in before.stages["generator"].network.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(model.stages["generator"].network.state_dict()[name], weight)  # type: ignore[attr-defined]
    made = model.generate("rain", duration=0.1, seed=1, sampling=FEW)
    assert made.samples.shape == (1, 800)
    low = before.generate("rain", duration=0.1, seed=1, sampling=FEW, raw=True)
    assert torch.equal(made.stage_values["generator"], low.stage_values["generator"])


def test_the_log_has_sounds_and_losses_by_noise_level(cascader: Run) -> None:
    log = EventAccumulator(str(cascader[0].out / "log"))
    log.Reload()
    assert log.Tags()["audio"] == ["sample 0", "sample 1", "sample 2"]
    assert {f"train/noise level {i}" for i in range(4)} < set(log.Tags()["scalars"])


@pytest.mark.parametrize("stage", ["generator", "cascader"])
def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType,
    generator: Run,
    cascader: Run,
    tmp_path: Path,
    killed_at: Callable[..., Any],
    stage: str,
) -> None:
    whole_run, losses = {"generator": generator, "cascader": cascader}[stage]
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


def test_a_cascader_sees_its_own_window_at_the_lower_rate_with_known_noise(
    recipe: ModuleType, tiny: Settings, sounds: Path
) -> None:
    stage = stage_of(recipe, tiny("cascader"))
    shards = Shards(sounds)
    batches = CascadeBatches(stage, shards, batch_size=4, seed=0, dropout=Dropout(joint=0.0))
    batch, again = batches[3], batches[3]
    assert batch.latents.shape == (4, 1, stage.window_frames)
    assert bool(batch.mask.all())
    levels = torch.tensor(batch.conditions["level"])
    assert levels.min() > 0
    assert levels.max() < 0.5
    for sound, lower, level, same in zip(
        batch.latents,
        batch.conditions["stacked"],
        levels,
        again.conditions["stacked"],
        strict=True,
    ):
        assert torch.equal(lower, same)
        angle = level * torch.pi / 2
        left = (lower - angle.cos() * resample(sound, 8_000, 2_000)) / angle.sin()
        assert abs(float(left.std()) - 1) < 0.5
        assert abs(float(left.mean())) < 0.5
    crop = batches.crops[3][0]
    samples = shards.read(crop.index, "samples", crop.start, crop.stop).float() / 2**15
    torch.testing.assert_close(batch.latents[0, :, : samples.shape[1]], samples)


def test_short_sounds_are_padded_and_texts_are_dropped(
    recipe: ModuleType, tiny: Settings, sounds: Path
) -> None:
    stage = stage_of(recipe, tiny("generator", window_seconds=5.0))
    drops = Dropout(joint=0.0, each={"text": 0.5})
    batches = CascadeBatches(stage, Shards(sounds), batch_size=3, seed=0, dropout=drops)
    batch = batches[0]
    assert batch.latents.shape == (3, 1, stage.window_frames)
    assert not batch.latents[:, :, 8_000:].any()  # of four seconds at 2 kHz
    assert batch.latents.any()
    texts = [text for number in range(40) for text in batches[number].conditions["text"]]
    assert 0.3 < sum(text is None for text in texts) / len(texts) < 0.7


def low_band(samples: Tensor) -> Tensor:
    """The part below 900 Hz of samples [1, N] at 8 kHz."""
    spectrum = torch.fft.rfft(samples)
    spectrum[:, int(900 * samples.shape[1] / 8_000) :] = 0
    return torch.fft.irfft(spectrum, n=samples.shape[1])


@pytest.mark.slow
def test_a_sound_learned_by_heart_keeps_its_low_band_and_regains_the_high_one(
    recipe: ModuleType, tiny: Settings, tmp_path: Path
) -> None:
    time = torch.arange(8_000) / 8_000
    sound = 0.3 * (2 * torch.pi * 200 * time).sin() + 0.3 * (2 * torch.pi * 2_600 * time).sin()
    pcm = (sound * 2**15).round().short()[None]
    streams = {"samples": samples_stream(8_000, num_channels=1)}
    examples = [Example(id=str(i), streams={"samples": pcm}, conditions={}) for i in range(16)]
    write_shard(shard_path(tmp_path, "train", 0), examples, streams)
    config = tiny("cascader", text=False, most_noise=0.1, data=(tmp_path,))
    shards = Shards(tmp_path)
    torch.manual_seed(0)
    model = recipe.new_model(config, shards)
    stage = model.stages[-1]
    batches = CascadeBatches(stage, shards, batch_size=8, seed=0, dropout=None)
    objective = DiffusionObjective(stage).train()
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    for number in range(300):
        batch = batches[number]
        loss = objective(batch).sum() / batch.counts(NUM_BINS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    objective.eval()
    low = resample(sound[None, :1_600], 8_000, 2_000)
    sampling = Denoising(steps=10, solver="ddim", guidance_scale=1.0)
    made = AudioPipeline(model).upsample((low, 2_000), seed=1, sampling=sampling).samples
    inner, wanted = slice(100, -100), sound[None, :1_600]
    kept = low_band(made)[:, inner] - low_band(wanted)[:, inner]
    assert kept.square().mean() < 0.25 * low_band(wanted)[:, inner].square().mean()
    high = (made - low_band(made))[:, inner].square().mean()
    assert high > 0.2 * 0.045


def test_mistakes_get_one_sentence(recipe: ModuleType, tiny: Settings, tmp_path: Path) -> None:
    for stage, wrong, sentence in (
        ("generator", {"after": tmp_path}, "--after and --from-rate have no effect with --stage"),
        ("cascader", {"most_noise": 1.5}, "most_noise must be from 0 to 1, got 1.5"),
        ("generator", {"rate": 10}, "rate must be at least 1000, got 10"),
        ("generator", {"text": False, "t5": "x"}, "have no effect with --no-text"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tiny(stage, **wrong)
    for stage, wrong, sentence in (
        ("generator", {"rate": 3_000}, "samples at 8000 Hz, but the generator stage needs a mult"),
        ("cascader", {"from_rate": 8_000}, "raises the rate of a signal, got 8000 Hz to 8000 Hz"),
    ):
        with pytest.raises(ValueError, match=sentence):
            recipe.main(tiny(stage, out=tmp_path / "x", **wrong))


def test_a_cascader_fits_the_model_before_it(
    recipe: ModuleType, tiny: Settings, generator: Run, tmp_path: Path
) -> None:
    after = generator[0].out / "model"
    config = tiny("cascader", out=tmp_path, after=after, from_rate=4_000)
    with pytest.raises(ValueError, match=r"makes 2000 Hz, but --from-rate is 4000; remove it"):
        recipe.main(config)
