"""Fine-tuning of diffusion models of every family: losses, folders, and what is heard."""

import filecmp
import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import lm_audio
from lm_audio.data.shards import SAMPLES, Example, Shards, samples_stream, shard_path, write_shard
from lm_audio.families.family import Checkpoint
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.track import Track, Variation, unknown_values
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.log_mel import usual_log_mel
from lm_audio.renderers.protocol import Renderer
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.latents import SoundLatents
from lm_audio.training.window_batches import WindowBatches, training_window
from tests.lm_audio.families.audioldm import conftest as audioldm
from tests.lm_audio.families.dance_diffusion import conftest as dance_diffusion
from tests.lm_audio.families.make_an_audio import conftest as make_an_audio
from tests.lm_audio.families.riffusion import conftest as riffusion
from tests.lm_audio.families.stable_audio import conftest as stable_audio

FAMILIES = ("audioldm", "dance_diffusion", "make_an_audio", "riffusion", "stable_audio")
STEPS = 100
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A model, the sound that it learnt by heart, and the model after that."""

    start: Path
    data: Path
    config: Any
    losses: list[float]

    @property
    def before(self) -> AudioPipeline:
        return lm_audio.load(self.start)

    @property
    def after(self) -> AudioPipeline:
        return lm_audio.load(self.config.out / "model")


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("finetune_diffusion")


@pytest.fixture(scope="module")
def write_start(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a tiny model of a family with random weights, once."""
    made: dict[str, Path] = {}

    def write(family: str) -> Path:
        if family in made:
            return made[family]
        folder = made[family] = tmp_path_factory.mktemp(family)
        if family == "audioldm":
            audioldm.write(audioldm.first_parts(), folder, name="AudioLDMPipeline")
        elif family == "audioldm2":
            audioldm.write(audioldm.small_parts(), folder)
        elif family == "dance_diffusion":
            dance_diffusion.small_pipeline().save_pretrained(folder)
        elif family == "make_an_audio":
            make_an_audio.write(make_an_audio.small_parts(), folder)
        elif family == "riffusion":
            riffusion.write(riffusion.small_parts(), folder)
        else:
            torch.manual_seed(0)
            stable_audio.write(stable_audio.small_parts(cosine_scheduler), folder)
        return folder

    return write


def cosine_scheduler() -> Any:
    """That of Stable Audio's folder; torchsde, which its file imports, makes noise alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
        name = "diffusers.schedulers.scheduling_cosine_dpmsolver_multistep"
        return importlib.import_module(name).CosineDPMSolverMultistepScheduler()


def write_sound(folder: Path, model: AudioPipeline, *, windows: float = 1.0) -> Path:
    """Shards of one sound eight times, the same in both splits: two falling tones."""
    (stage,) = model.stages.values()
    assert isinstance(stage, DiffusionStage)
    rate = model.sample_rate
    time = torch.arange(int(windows * stage.window_frames * model.renderer.hop_length)) / rate
    tones = [torch.sin(2 * math.pi * rate * share * time) for share in (0.05, 0.19)]
    sound = 0.4 * sum(tones) * torch.exp(-time / time[-1])
    samples = (2**15 * sound).to(torch.int16)[None]
    streams = {SAMPLES: samples}
    examples = [Example(id=f"{i}", streams=streams, conditions={"text": "rain"}) for i in range(8)]
    for split in ("train", "held_out"):
        stream = samples_stream(rate, num_channels=1)
        write_shard(shard_path(folder, split, 0), examples, {SAMPLES: stream})
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def tuned(
    request: pytest.FixtureRequest,
    recipe: ModuleType,
    write_start: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tuned:
    start = write_start(request.param)
    folder = tmp_path_factory.mktemp("tuned")
    data = write_sound(folder / "data", lm_audio.load(start))
    config = replace(
        recipe.PRESETS["tiny"],
        start=str(start),
        data=(data,),
        out=folder,
        steps=STEPS,
        learning_rate=1e-2,
        evaluate_every=STEPS,
        save_every=STEPS,
        joint_dropout=0.0,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        losses = recipe.main(config)
    return Tuned(start=start, data=data, config=config, losses=losses)


def stage_of(model: AudioPipeline) -> DiffusionStage:
    (stage,) = model.stages.values()
    assert isinstance(stage, DiffusionStage)
    return replace(stage, sampling=replace(stage.sampling, steps=20, guidance_scale=1.0))


@torch.no_grad()
def held_out_loss(model: AudioPipeline, data: Path) -> float:
    shards, stage = Shards(data, "held_out"), stage_of(model)
    window = training_window(stage, shards, hop_length=model.renderer.hop_length)
    batches = WindowBatches(
        stage,
        shards,
        renderer=model.renderer,
        window=window,
        batch_size=8,
        seed=7,
        dropout=None,
        logit_normal=False,
    )
    objective = DiffusionObjective(stage).eval()
    pairs = [(objective(batches[i]).sum(), batches[i].counts(4).sum()) for i in range(8)]
    return float(sum(loss for loss, _ in pairs) / sum(count for _, count in pairs))


def test_the_held_out_loss_falls(tuned: Tuned) -> None:
    assert len(tuned.losses) == STEPS
    before, after = (held_out_loss(model, tuned.data) for model in (tuned.before, tuned.after))
    assert after < 0.5 * before


def test_the_sound_is_heard(tuned: Tuned) -> None:
    """Clips from noise have nearer latents than before, and variations of silence sound nearer.

    The autoencoders have random weights, so that the spectrograms of all latents are much alike.
    """
    latents, spectrograms = [], []
    for model in (tuned.before, tuned.after):
        renderer, stage = model.renderer, stage_of(model)
        encode = SoundLatents(renderer)
        samples = Shards(tuned.data).read(0, SAMPLES)
        true, silence = encode(samples), encode(torch.zeros_like(samples))
        clips = [generated(stage, true.shape[1], seed=seed) for seed in range(4)]
        latents.append(distance(clips, true))
        varied = Variation(values=silence, strength=0.5)
        clips = [generated(stage, true.shape[1], seed=i, variation=varied) for i in range(4)]
        heard = [spectrogram(renderer, values) for values in clips]
        spectrograms.append(distance(heard, spectrogram(renderer, true)))
    assert latents[1] < 0.5 * latents[0]
    assert spectrograms[1] < 0.95 * spectrograms[0]


def distance(made: list[Tensor], true: Tensor) -> float:
    return float(torch.stack([(one - true).abs().mean() for one in made]).mean())


def generated(
    stage: DiffusionStage, num_frames: int, *, seed: int, variation: Variation | None = None
) -> Tensor:
    """Latents [D, T] of a clip."""
    track = Track(
        values=unknown_values(stage.makes, num_frames, stage.device),
        seed=seed,
        sampling=stage.sampling,
        conditions={"text": "rain"} if "text" in stage.conditions else {},
        variation=variation,
    )
    batch = stage.new_batch()
    batch.add(track)
    while batch.step():
        pass
    return track.values


def spectrogram(renderer: Renderer, latents: Tensor) -> Tensor:
    """The log-mel spectrogram of latents: what the autoencoder decodes, or that of the sound."""
    if isinstance(renderer, LatentRenderer):  # whose vocoder has random weights
        return renderer.to_mel(latents)
    settings = usual_log_mel(sample_rate=renderer.sample_rate, hop_length=8, num_mels=16)
    return replace(settings, floor=1e-3)(renderer.render(latents))


def test_only_the_weights_of_the_network_differ(tuned: Tuned) -> None:
    start, made = tuned.start, tuned.config.out / "model"
    part = "transformer" if (start / "transformer").exists() else "unet"
    files = {path.relative_to(start) for path in start.rglob("*") if path.is_file()}
    assert files == {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    differing = [one for one in files if not filecmp.cmp(start / one, made / one, shallow=False)]
    assert differing == [Path(part) / WEIGHTS]
    old, new = (load_file(folder / part / WEIGHTS) for folder in (start, made))
    assert {name: x.shape for name, x in old.items()} == {name: x.shape for name, x in new.items()}
    changed = [name for name, weight in old.items() if not torch.equal(weight, new[name])]
    assert len(changed) > 0.9 * len(old)  # some, such as frequencies, are constant
    assert tuned.after.renderer.identity == tuned.before.renderer.identity


def test_the_model_generates(tuned: Tuned) -> None:
    model = tuned.after
    given = ("rain",) if "text" in model.conditions else ()
    sampling = replace(stage_of(model).sampling, steps=5)
    clip = model.generate(*given, duration=0.05, seed=1, sampling=sampling)
    assert clip.samples.isfinite().all()
    assert clip.samples.shape == (model.num_channels, round(0.05 * model.sample_rate))
    assert model.model.card.licence == tuned.before.model.card.licence


@pytest.mark.parametrize("family", ["riffusion", "stable_audio"])
def test_a_killed_run_goes_on_with_the_same_losses(
    recipe: ModuleType,
    write_start: Callable[[str], Path],
    family: str,
    tmp_path: Path,
    killed_at: Callable[..., Any],
) -> None:
    start = write_start(family)
    data = write_sound(tmp_path / "data", lm_audio.load(start), windows=2.3)
    config = replace(
        recipe.PRESETS["tiny"],
        start=str(start),
        data=(data,),
        out=tmp_path / "whole",
        steps=9,
        save_every=2,
        evaluate_every=9,
    )
    losses = recipe.main(config)
    last = int(np.random.default_rng().integers(2, 9))
    config = replace(config, out=tmp_path / "killed")
    with killed_at(last):
        recipe.main(config)
    latest = Checkpoints(config.out / "checkpoints").latest()
    assert latest is not None
    assert recipe.main(config) == losses[latest.step :], f"killed at step {last}"
    first, second = (
        next((tmp_path / run / "model").glob(f"*/{WEIGHTS}")) for run in ("whole", "killed")
    )
    assert filecmp.cmp(first, second, shallow=False)


def test_crops_have_the_length_of_windows_and_times(
    write_start: Callable[[str], Path], tmp_path: Path
) -> None:
    model = lm_audio.load(write_start("stable_audio"))
    stage, renderer = stage_of(model), model.renderer
    hop = renderer.hop_length
    for windows, seconds in ((0.55, 70 / 1600), (2.5, 320 / 1600)):
        data = write_sound(tmp_path / str(windows), model, windows=windows)
        shards = Shards(data)
        window = training_window(stage, shards, hop_length=hop)
        assert window == (9 if windows < 1 else 16)
        batches = WindowBatches(
            stage,
            shards,
            renderer=renderer,
            window=16,
            batch_size=3,
            seed=0,
            dropout=None,
            logit_normal=False,
        )
        for number in range(2):
            batch, crops = batches[number], batches.crops[number]
            assert batch.mask.all()
            assert batch.latents.shape[2] == 16
            assert batch.conditions["text"] == ["rain"] * len(crops)
            assert batch.conditions["seconds_total"] == [seconds] * len(crops)
            starts = [crop.start * hop / 1600 for crop in crops]
            assert batch.conditions["seconds_start"] == starts
            for row, crop in enumerate(crops):
                samples = shards.read(crop.index, SAMPLES)[:, crop.start * hop :][:, : 16 * hop]
                padded = torch.zeros(2, 16 * hop)
                padded[:, : samples.shape[1]] = samples / 2**15  # in both channels
                assert torch.equal(batch.latents[row], renderer.encoder.encode(padded))


def test_a_model_in_our_own_layout_is_written_in_it(
    recipe: ModuleType,
    load_recipe: Callable[[str], ModuleType],
    codec_folder: Path,
    token_shards: Path,
    tmp_path: Path,
) -> None:
    train = load_recipe("train_diffusion")
    start = tmp_path / "start"
    settings = {"codec": codec_folder, "data": (token_shards,), "steps": 1}
    train.main(replace(train.PRESETS["tiny"], out=start, **settings))
    config = replace(
        recipe.PRESETS["tiny"], start=str(start / "model"), out=tmp_path / "tuned", steps=2
    )
    recipe.main(config)
    old, new = (lm_audio.load(folder / "model").model for folder in (start, config.out))
    assert new.renderer.identity == old.renderer.identity
    (before,), (after,) = old.stages, new.stages
    for name, weight in before.conditioners.state_dict().items():
        assert torch.equal(weight, after.conditioners.state_dict()[name])
    changed = after.network.state_dict()
    assert any(not torch.equal(x, changed[name]) for name, x in before.network.state_dict().items())


def test_mistakes_get_one_sentence(
    recipe: ModuleType,
    write_start: Callable[[str], Path],
    sounds: Path,
    tmp_path: Path,
) -> None:
    tiny = replace(recipe.PRESETS["tiny"], out=tmp_path / "out")
    riffusion = replace(tiny, start=str(write_start("riffusion")))
    with pytest.raises(ValueError, match=r"No model to start from; pass --start"):
        recipe.main(tiny)
    with pytest.raises(ValueError, match=r"has the stages audio_language, diffusion; this recipe"):
        recipe.main(replace(tiny, start=str(write_start("audioldm2"))))
    with pytest.raises(ValueError, match=r"have samples at 24000 Hz, but the model needs 1600 Hz"):
        recipe.main(replace(riffusion, data=(sounds,)))
    with pytest.raises(ValueError, match=r"--recompute has no effect on this network"):
        recipe.main(replace(riffusion, recompute=True))
    with pytest.raises(ValueError, match=r"The preset 'default' needs data"):
        recipe.main(replace(riffusion, preset="default"))
    with pytest.raises(ValueError, match=r"has the layout stable-audio-tools, .* It writes: audio"):
        recipe.check_layout(Checkpoint(folder=tmp_path, hub_id=None, format="stable-audio-tools"))
    assert not (tmp_path / "out" / "model").exists()
