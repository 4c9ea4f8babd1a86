"""A GPT-2 learns the language of audio, in the layout of diffusers, for whole models."""

import json
import shutil
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
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2ProjectionModel
from transformers import GPT2Model

import lm_audio
from audio_tokenizers.audio_files import AudioInfo
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.semantic.masked_model import (
    MaskedAudioModel,
    MaskedModelConfig,
    save_masked_model,
)
from lm_audio.data.manifest import make_cut, write_cuts
from lm_audio.families.audioldm.audio_encoder import load_audio_encoder
from lm_audio.families.audioldm.reading import read_text_encoders
from lm_audio.sampling import Denoising
from lm_audio.training.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("steady_weights")
RATE = 8000
Run = tuple[Any, list[float]]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("train_audio_language")


@pytest.fixture(scope="module")
def run(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = replace(recipe.PRESETS["tiny"], out=tmp_path_factory.mktemp("run"))
    return config, recipe.main(config)


@pytest.fixture(scope="module")
def audioldm2(
    write_audioldm2: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny AudioLDM 2 of random weights, whose U-Net reads vectors of width 16."""
    return write_audioldm2(tmp_path_factory.mktemp("audioldm2"), 16)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked audio model of width 16 with random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = MaskedModelConfig(
        sample_rate=RATE, spectrum_hop=80, num_mels=8, width=16, num_layers=3, num_heads=2
    )
    save_masked_model(MaskedAudioModel(config), folder)
    (folder / "log").mkdir()
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise and tones of up to 18 s, with captions; one sound has none, one cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    cuts = []
    for number in range(12):
        seconds = (1.0, 6.0, 16.0)[number % 3]
        time = torch.arange(round(seconds * RATE)) / RATE
        tone = 0.4 * torch.sin(2 * torch.pi * (200 + 100 * number) * time)
        noise = 0.2 * torch.randn(len(time), generator=torch.Generator().manual_seed(number))
        name = "dog barks" if number % 2 else "rain on tin"
        path = folder / f"{number}.wav"
        write_audio(path, (tone if number % 2 else noise)[None], RATE)
        info = AudioInfo(sample_rate=RATE, num_samples=len(time), num_channels=1, format="WAV")
        texts = {} if number == 7 else {"text": [f"a {name}", name]}
        cuts.append(make_cut(str(number), path, info=info, conditions=texts or {"label": "x"}))
    (folder / "4.wav").write_bytes(b"RIFF")
    write_cuts(folder, cuts, held_out=0.3)
    return folder


def test_the_loss_after_five_steps_is_pinned_and_it_falls(
    recipe: ModuleType, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config, losses = run
    assert losses[4] == pytest.approx(2.0441, rel=5e-3)
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    best = Checkpoints(config.out / "checkpoints").best()
    assert best is not None
    assert best.loss is not None
    assert best.loss < 0.7  # 1 is the mean of the targets
    assert list((config.out / "log").glob("events.*"))
    assert recipe.main(config) == []  # done
    assert "no U-Net in --model reads vectors of this width" in capsys.readouterr().out


def test_the_weights_kept_are_the_best_and_their_loss_is_that_of_generation(
    recipe: ModuleType, run: Run
) -> None:
    config = run[0]
    found = Checkpoints(config.out / "checkpoints").best()
    assert found is not None
    average = Checkpoints(config.out / "checkpoints").read(found)["average"]
    gpt2 = GPT2Model.from_pretrained(config.out / "model" / "language_model").eval()
    projection = AudioLDM2ProjectionModel.from_pretrained(
        config.out / "model" / "projection_model"
    ).eval()
    for name, weight in gpt2.state_dict().items():
        if name != "wte.weight":
            assert torch.equal(weight, average[f"language.gpt2.{name}"]), name
    clap, t5 = read_text_encoders(config.out / "model")
    encoder = load_audio_encoder(config.out / "model" / "audio_encoder", num_vectors=8)
    errors = []
    for name, texts, samples in recipe.read_sounds(config, "held_out", sample_rate=24_000):
        target = encoder.encode(samples).T
        (words,) = t5.encode(texts[:1])
        made = projection(clap.encode(texts[0])[None], words[None]).hidden_states
        with torch.no_grad():
            for _ in range(8):
                last = gpt2(inputs_embeds=made, use_cache=False).last_hidden_state[:, -1:]
                made = torch.cat([made, last], dim=1)
        errors.append((made[0, -8:] - target).square().mean())
        assert name.split("-")[0] in ("pluck", "chirp", "rain")
    train = [
        encoder.encode(samples).T
        for _, _, samples in recipe.read_sounds(config, "train", sample_rate=24_000)
    ]
    variance = torch.stack(train).var(dim=0, correction=0).mean()
    assert found.loss == pytest.approx(float(sum(errors) / len(errors) / variance), abs=1e-3)


def test_a_run_killed_at_any_step_goes_on_with_the_same_losses(
    recipe: ModuleType, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(run[0], out=tmp_path)
    last = int(np.random.default_rng().integers(0, config.steps))
    rate = recipe.learning_rate_share

    def killed(step: int, **rest: Any) -> float:
        if step == last:
            raise KeyboardInterrupt
        return rate(step, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "learning_rate_share", killed)
        with pytest.raises(KeyboardInterrupt):
            recipe.main(config)
    with monkeypatch.context() as patch:  # the targets are kept
        patch.setattr(recipe.AudioLanguageEncoder, "encode", None)
        assert recipe.main(config) == run[1][last // 10 * 10 :], f"killed at step {last}"
    for part in ("language_model/model", "projection_model/diffusion_pytorch_model"):
        pair = [(x / f"model/{part}.safetensors").read_bytes() for x in (run[0].out, tmp_path)]
        assert pair[0] == pair[1]
    with pytest.raises(ValueError, match=r"was made with own_share=0.5, got 0.0"):
        recipe.main(replace(config, own_share=0.0))


@pytest.mark.slow
def test_two_processes_share_the_batches_of_one(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = replace(recipe.PRESETS["tiny"], steps=20, out=tmp_path / "alone")
    recipe.main(alone)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = [str(Path(recipe.__file__ or "")), "--preset", "tiny", "--steps", "20"]
    subprocess.run([sys.executable, *launch, *script, "--out", str(tmp_path / "two")], check=True)
    found = [Checkpoints(tmp_path / run / "checkpoints").best() for run in ("alone", "two")]
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-3)


def test_a_whole_model_speaks_the_new_language(
    recipe: ModuleType, audioldm2: Path, encoder: Path, corpus: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = replace(
        recipe.PRESETS["tiny"], model=str(audioldm2), encoder=encoder, data=(corpus,), out=tmp_path
    )
    losses = recipe.main(config)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert "skipped" in caplog.text
    assert "Try: lm-audio generate rain --model" in capsys.readouterr().out
    model = lm_audio.load(tmp_path / "model")
    assert not (tmp_path / "model/audio_encoder/log").exists()

    def language(**given: Any) -> tuple[Any, Any]:
        clip = model.generate(
            "a dog barks", duration=0.12, seed=1, sampling=Denoising(steps=2), **given
        )
        return clip.stage_values["audio_language"], clip.samples

    spoken, samples = language()
    assert spoken.shape == (16, 8)
    assert samples.isfinite().all()
    heard, _ = language(tokens={"audio_language": corpus / "1.wav"})
    expected = load_audio_encoder(encoder, num_vectors=8)
    rate = expected.sample_rate
    for name, _, cut in (
        sound for split in ("train", "held_out")
        for sound in recipe.read_sounds(config, split, sample_rate=rate)
    ):  # fmt: skip
        if name == "1":
            torch.testing.assert_close(
                heard, expected.encode(recipe.samples_of(cut, sample_rate=rate)), atol=1e-5, rtol=0
            )
    shutil.rmtree(tmp_path / "model")
    assert (audioldm2 / "unet/diffusion_pytorch_model.safetensors").is_file()  # linked, not moved


def test_long_sounds_are_several_examples_and_those_without_captions_none(
    recipe: ModuleType, encoder: Path, corpus: Path, tmp_path: Path
) -> None:
    config = replace(recipe.PRESETS["tiny"], data=(corpus,), out=tmp_path)
    made = load_audio_encoder(encoder, num_vectors=8)
    found = {split: recipe.read_examples(config, made, split) for split in ("train", "held_out")}
    assert sum(len(one.texts) for one in found.values()) == 11
    # Of four sounds of each length, one of 6 s is damaged and one has no caption.
    counts = sorted(
        count for one in found.values() for count in one.owners.bincount().tolist() if count
    )
    assert counts == [1] * 6 + [2] * 4
    window = round(10.24 * RATE)
    assert list(recipe.starts_of(16 * RATE, window)) == [0, window]
    assert list(recipe.starts_of(15 * RATE, window)) == [0]
    assert list(recipe.starts_of(1, window)) == [0]


def test_mistakes_are_named(
    recipe: ModuleType, audioldm2: Path, encoder: Path, corpus: Path, tmp_path: Path
) -> None:
    tiny, small = (
        replace(recipe.PRESETS[name], out=tmp_path, precision="float32")
        for name in ("tiny", "small")
    )
    with pytest.raises(ValueError, match="'small' needs --model with the folder of an AudioLDM 2"):
        recipe.main(small)
    with pytest.raises(ValueError, match="'small' needs --encoder with the folder of an audio en"):
        recipe.main(replace(small, model=str(audioldm2)))
    with pytest.raises(ValueError, match=r"'small' needs data. Pass --data with a prepared corpus"):
        recipe.main(replace(small, model=str(audioldm2), encoder=encoder))
    with pytest.raises(ValueError, match="No such file or folder: "):
        recipe.main(replace(tiny, model=str(tmp_path / "gone")))
    with pytest.raises(ValueError, match=r"Folder .*gone not found"):
        recipe.main(replace(tiny, encoder=tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"can make 1, 2, 4, 8, .* but the model needs 7"):
        recipe.main(replace(tiny, num_vectors=7))
    with pytest.raises(ValueError, match="own_share must be from 0 to 1, got 2"):
        replace(tiny, own_share=2)
    with pytest.raises(ValueError, match="num_vectors must be at least 1, got 0"):
        replace(tiny, num_vectors=0)
    cuts = [
        make_cut(
            str(i), corpus / "1.wav", conditions={"label": "x"},
            info=AudioInfo(sample_rate=RATE, num_samples=RATE, num_channels=1, format="WAV"),
        )
        for i in range(4)
    ]  # fmt: skip
    write_cuts(tmp_path / "silent", cuts, held_out=0.5)
    with pytest.raises(ValueError, match="The train split has no sound with a caption"):
        recipe.main(replace(tiny, data=(tmp_path / "silent",), out=tmp_path / "other"))
    phonemes = tmp_path / "phonemes"
    shutil.copytree(audioldm2, phonemes)
    path = phonemes / "text_encoder_2" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "vits"}))
    with pytest.raises(ValueError, match=r"reads phonemes. Give an AudioLDM 2 that reads text"):
        recipe.main(replace(tiny, model=str(phonemes)))
