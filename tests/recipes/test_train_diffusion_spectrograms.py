"""The recipe for diffusion transformers, over the latents of mel spectrograms."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import lm_audio
from lm_audio.cli import main as command
from lm_audio.data.shards import SAMPLES, Example, Shards, samples_stream, shard_path, write_shard
from lm_audio.data.synthetic import demo_clip, synthetic_clips
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.sampling import Denoising
from lm_audio.saving.folder import save_model
from lm_audio.saving.spectrograms import read_renderer
from lm_audio.training.checkpoints import Checkpoints
from lm_audio.training.diffusion_batches import LatentBatches
from lm_audio.training.latents import SoundLatents, sample_latents

pytestmark = pytest.mark.usefixtures("steady_weights")

RATE, STEPS = 8_000, 12
TINY = {
    "steps": STEPS,
    "context_seconds": 1.0,
    "frames_per_batch": 100,
    "evaluate_every": 6,
    "save_every": 4,
}
Run = tuple[Any, list[float]]
Settings = Callable[..., Any]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_diffusion")


@pytest.fixture(scope="module")
def networks(
    load_recipe: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The options --autoencoder and --vocoder, with short runs of both."""
    folders = {}
    for name in ("autoencoder", "vocoder"):
        recipe, out = load_recipe(f"train_{name}"), tmp_path_factory.mktemp(name)
        recipe.main(replace(recipe.PRESETS["tiny"], out=out, steps=4))
        folders[name] = out / "model"
    return folders


@pytest.fixture(scope="module")
def tiny(recipe: ModuleType, networks: dict[str, Path]) -> Settings:
    def make(**changes: Any) -> Any:
        return replace(recipe.PRESETS["tiny"], **networks | TINY | changes)

    return make


@pytest.fixture(scope="module")
def alone(recipe: ModuleType, tiny: Settings, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole run of a model of text and labels, over made-up sounds."""
    config = tiny(out=tmp_path_factory.mktemp("alone"), labels=("label",))
    return config, recipe.main(config)


def write_sounds(folder: Path, *, num_clips: int, seconds: float, num_channels: int = 1) -> Path:
    """Shards of samples, the same in both splits."""
    clips = synthetic_clips(num_clips=num_clips, seconds=seconds, sample_rate=RATE, seed=0)
    examples = [
        Example(
            id=clip.name,
            streams={SAMPLES: torch.from_numpy(clip.samples).expand(num_channels, -1)},
            conditions={"text": clip.kind},
        )
        for clip in clips
    ]
    streams = {SAMPLES: samples_stream(RATE, num_channels=num_channels)}
    for split in ("train", "held_out"):
        write_shard(shard_path(folder, split, 0), examples, streams)
    return folder


def test_the_loss_falls(alone: Run) -> None:
    _, losses = alone
    assert len(losses) == STEPS
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])


def test_the_model_generates_streams_continues_fills_and_varies(
    alone: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = alone[0].out / "model"
    model = lm_audio.load(folder)
    assert (model.sample_rate, model.num_channels) == (RATE, 1)
    assert model.conditions == ("text", "label")
    given: dict[str, Any] = {"duration": 2.7, "seed": 1, "conditions": {"label": "rain"}}
    clip = model.generate("rain", **given)
    assert clip.samples.shape == (1, 21_600)
    assert torch.equal(torch.cat(list(model.stream("rain", **given)), dim=1), clip.samples)
    both = model.generate(["rain", "a bird"], **given | {"seed": [1, 2]})
    assert torch.equal(both[0].samples, clip.samples)
    prompt = torch.from_numpy(demo_clip(sample_rate=RATE)[None, :8_000])
    longer = model.continue_from((prompt, RATE), duration=0.5, seed=1)
    assert longer.samples.shape == (1, 12_000)
    assert torch.equal(longer.samples[:, :8_000], prompt)
    filled = model.inpaint((prompt, RATE), start=0.4, end=0.6, seed=1)
    assert torch.equal(filled.samples[:, :3200], prompt[:, :3200])
    assert model.vary((prompt, RATE), strength=0.4, seed=1).samples.shape == prompt.shape
    command(["info", str(folder)])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["output"] == "8000 Hz mono"
    assert shown["autoencoder"] == "4 latent channels of 32 mel bands"
    assert "latents of width 32 at 25 Hz, window of 1.0 s" in shown["stage"]


def test_a_loaded_model_is_saved_the_same(alone: Run, tmp_path: Path) -> None:
    model = lm_audio.load(alone[0].out / "model")
    save_model(model.model, tmp_path / "again")
    again = lm_audio.load(tmp_path / "again")
    assert again.renderer.identity == model.renderer.identity
    first, second = (each.generate("rain", duration=0.5, seed=3) for each in (model, again))
    assert torch.equal(first.samples, second.samples)


def test_batches_hold_what_the_model_encodes_of_the_crop(
    alone: Run, networks: dict[str, Path], tmp_path: Path
) -> None:
    renderer = read_renderer(**networks)
    stage = lm_audio.load(alone[0].out / "model").stages["latents"]
    shards = Shards(write_sounds(tmp_path, num_clips=3, seconds=2.01))
    batches = LatentBatches(
        stage,
        shards,
        latents=SoundLatents(renderer),
        stream=SAMPLES,
        hop_length=renderer.hop_length,
        frames=100,
        seed=0,
        dropout=None,
    )
    assert batches.lengths.tolist() == [50] * 3  # and a part of a frame
    assert renderer.encoder is not None
    for number in range(2):
        for row, crop in enumerate(batches.crops[number]):
            span = slice(crop.start * 320, crop.stop * 320)
            samples = shards.read(crop.index, SAMPLES)[:, span].float() / 2**15
            expected = renderer.encoder.encode(samples)
            assert torch.equal(batches[number].latents[row, :, : crop.length], expected)


def test_a_killed_run_goes_on_with_the_same_losses(
    recipe: ModuleType, alone: Run, tmp_path: Path, killed_at: Callable[..., Any]
) -> None:
    whole_run, losses = alone
    config = replace(whole_run, out=tmp_path)
    last = int(np.random.default_rng().integers(4, STEPS))
    with killed_at(last):
        recipe.main(config)
    latest = Checkpoints(tmp_path / "checkpoints").latest()
    assert latest is not None
    assert recipe.main(config) == losses[latest.step :], f"killed at step {last}"


def test_a_run_does_not_go_on_with_another_autoencoder(
    recipe: ModuleType, load_recipe: Callable[[str], ModuleType], alone: Run, tmp_path: Path
) -> None:
    train = load_recipe("train_autoencoder")
    train.main(replace(train.PRESETS["tiny"], out=tmp_path, steps=1))
    with pytest.raises(ValueError, match=r"was made with renderer='latent-.*', got 'latent-"):
        recipe.main(replace(alone[0], autoencoder=tmp_path / "model"))


def test_stereo_samples_are_mixed(recipe: ModuleType, tiny: Settings, tmp_path: Path) -> None:
    losses = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        data = write_sounds(folder / "data", num_clips=3, seconds=1.0, num_channels=number)
        losses.append(recipe.main(tiny(out=folder, data=(data,), steps=2)))
    assert losses[0] == losses[1]


def test_it_follows_a_semantic_stage(
    recipe: ModuleType, tiny: Settings, trained: Callable[[str], Run], tmp_path: Path
) -> None:
    semantic = trained("duet semantic")[0]
    data = tmp_path / "data"
    made_up = Shards(semantic.data[0]).streams["semantic"]
    streams = {SAMPLES: samples_stream(RATE, num_channels=1), "semantic": made_up}
    tokens = torch.arange(50)[None] % made_up.vocabulary
    for split in ("train", "held_out"):
        clips = Shards(write_sounds(tmp_path / "sounds", num_clips=3, seconds=2.0), split)
        examples = [replace(each, streams={**each.streams, "semantic": tokens}) for each in clips]
        write_shard(shard_path(data, split, 0), examples, streams)
    losses = recipe.main(tiny(out=tmp_path, data=(data,), semantic=semantic.out, steps=3))
    assert losses[-1] < losses[0]
    model = lm_audio.load(tmp_path / "model")
    assert list(model.stages) == ["semantic", "latents"]
    clip = model.generate("rain", duration=2.3, seed=1)
    assert clip.samples.shape == (1, 18_400)
    streamed = torch.cat(list(model.stream("rain", duration=2.3, seed=1)), dim=1)
    assert torch.equal(streamed, clip.samples)


def test_mistakes_get_one_sentence(
    recipe: ModuleType,
    tiny: Settings,
    networks: dict[str, Path],
    token_shards: Path,
    sounds: Path,
    codec_folder: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=r"--autoencoder and --vocoder need each other"):
        replace(recipe.PRESETS["tiny"], autoencoder=networks["autoencoder"])
    for wrong in ({"codec": codec_folder}, {"channels": 2}, {"quantize": False}):
        with pytest.raises(ValueError, match=r"have no effect with --autoencoder; remove them"):
            tiny(**wrong)
    with pytest.raises(ValueError, match=r"The shards have no samples, .* --samples 8000"):
        recipe.main(tiny(out=tmp_path, data=(token_shards,)))
    with pytest.raises(ValueError, match=r"have samples at 24000 Hz, but .* needs 8000 Hz"):
        recipe.main(tiny(out=tmp_path, data=(sounds,)))
    with pytest.raises(ValueError, match=r"The preset 'small' needs data"):
        recipe.main(tiny(out=tmp_path, preset="small"))
    with pytest.raises(ValueError, match=r"Folder .*nowhere not found"):
        recipe.main(tiny(out=tmp_path, autoencoder=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"config.json has no in_channels"):
        recipe.main(tiny(out=tmp_path, autoencoder=networks["vocoder"]))


@pytest.mark.slow  # two minutes of one core
def test_a_batch_learnt_by_heart_comes_back(
    recipe: ModuleType,
    load_recipe: Callable[[str], ModuleType],
    networks: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three sounds: an autoencoder learns them, then a diffusion model, each under its name."""
    data = write_sounds(tmp_path / "data", num_clips=3, seconds=0.96)
    train = load_recipe("train_autoencoder")
    train.main(
        replace(
            train.PRESETS["tiny"],
            out=tmp_path / "autoencoder",
            data=(data,),
            steps=450,
            adversarial_from=1.0,
            average_decay=0.95,
            evaluate_every=150,
        )
    )
    folders = networks | {"autoencoder": tmp_path / "autoencoder" / "model"}
    renderer = read_renderer(**folders)
    shards = Shards(data)
    mels = [spectrogram(renderer, shards.read(i, SAMPLES)) for i in range(3)]
    assert renderer.encoder is not None
    encoded = [renderer.encoder.encode(shards.read(i, SAMPLES).float() / 2**15) for i in range(3)]
    own = [distance(renderer.to_mel(z), mel) for z, mel in zip(encoded, mels, strict=True)]
    bands = torch.cat(mels, dim=1).mean(dim=1, keepdim=True)
    simple = [distance(bands.expand_as(mel), mel) for mel in mels]
    assert sum(own) < 0.1 * sum(simple)

    reader = recipe.SHAPES["tiny"][1]
    monkeypatch.setitem(recipe.SHAPES, "tiny", (recipe.two_sided(128, 4), reader))
    recipe.main(
        replace(
            recipe.PRESETS["tiny"],
            out=tmp_path / "diffusion",
            data=(data,),
            **folders,
            steps=600,
            accumulation=2,
            context_seconds=0.96,
            frames_per_batch=3 * 24,
            optimizer="muon",
            warmup_steps=20,
            average_decay=0.98,
            evaluate_every=600,
            save_every=600,
            prompt_share=0.0,
            span_share=0.0,
            joint_dropout=0.0,
            text_dropout=0.0,
        )
    )
    model = lm_audio.load(tmp_path / "diffusion" / "model")
    sampling = Denoising(steps=20, solver="euler", guidance_scale=1.0)
    stage = replace(model.stages["latents"], sampling=sampling)
    names = [str(conditions["text"]) for conditions in shards.conditions]
    made = [
        sample_latents(stage, num_frames=24, seed=1, conditions={"text": name}) for name in names
    ]
    found = [distance(renderer.to_mel(z), mel) for z, mel in zip(made, mels, strict=True)]
    assert sum(found) < 1.1 * sum(own)
    for number in range(3):  # each is nearest to its own sound
        others = [distance(renderer.to_mel(made[number]), mel) for mel in mels]
        assert min(others) == others[number]
    clip = model.generate("rain", duration=0.96, seed=1, sampling=sampling, raw=True)
    rendered = renderer.render(made[names.index("rain")])
    torch.testing.assert_close(clip.samples, rendered, rtol=0, atol=1e-5)


def spectrogram(renderer: LatentRenderer, samples: torch.Tensor) -> torch.Tensor:
    assert renderer.log_mel is not None
    return renderer.log_mel(samples.float() / 2**15)[0]


def distance(made: torch.Tensor, true: torch.Tensor) -> float:
    return float((made - true).abs().mean())
