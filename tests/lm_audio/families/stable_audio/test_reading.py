"""Folders in diffusers' layout: precision, memory, and those that are not whole."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lm_audio
from lm_audio.families.stable_audio.reading import read_stable_audio
from lm_audio.sampling import Denoising

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
SAMPLING = Denoising(steps=3, guidance_scale=3.0)


def made(folder: Path, **settings: Any) -> torch.Tensor:
    model = lm_audio.load(folder, **settings)
    return model.generate("rain", duration=0.08, seed=1, sampling=SAMPLING, raw=True).samples


@pytest.mark.parametrize("fast", [True, False])
def test_bfloat16_is_close(folder: Path, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    """CPUs that multiply bfloat16 slowly keep the transformer in it, and multiply in float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    exact, rounded = made(folder), made(folder, dtype="bfloat16")
    assert not torch.equal(exact, rounded)
    error = (exact - rounded).norm() / exact.norm()
    assert error < 0.1, error
    parts = read_stable_audio(folder, dtype=torch.bfloat16)
    assert {x.dtype for x in parts.network.dit.parameters()} == {torch.bfloat16}
    expected = torch.bfloat16 if fast else torch.float32
    assert {x.dtype for x in parts.renderer.autoencoder.parameters()} == {expected}


def test_weights_that_are_read_give_the_clip_of_mapped_ones(folder: Path) -> None:
    read, mapped = read_stable_audio(folder, dtype=torch.float16), read_stable_audio(folder)
    assert {x.dtype for x in read.network.dit.parameters()} == {torch.float16}
    for name, weight in read.network.dit.state_dict().items():
        assert torch.equal(weight, mapped.network.dit.state_dict()[name].half()), name


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize("part", ["transformer", "vae", "projection_model", "scheduler"])
def test_a_missing_part_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=rf"/{part}.*Download the whole model"):
        lm_audio.load(copy)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_missing_text_encoder_is_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=rf"/{part}.*Download the whole model"):
        lm_audio.load(copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "projection_model"])
def test_truncated_and_absent_weights_are_refused(copy: Path, part: str) -> None:
    path = copy / part / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="is not a complete safetensors file"):
        lm_audio.load(copy)
    path.unlink()
    with pytest.raises(ValueError, match=f"No weights found in .*{part}"):
        lm_audio.load(copy)


@pytest.mark.parametrize("part", ["transformer", "vae", "projection_model"])
def test_missing_weights_and_other_shapes_are_named(copy: Path, part: str) -> None:
    path = copy / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("bias"))
    save_file({n: w for n, w in weights.items() if n != name}, path)
    with pytest.raises(ValueError, match="missing or unexpected weights"):
        lm_audio.load(copy)
    save_file({**weights, name: weights[name][:-1].clone()}, path)
    with pytest.raises(ValueError, match="weight shapes that do not match"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    ("path", "settings", "message"),
    [
        ("transformer/config.json", {"out_channels": 5}, "out_channels is 5; expected 6"),
        ("transformer/config.json", {"num_layers": 0}, "num_layers must be at least 1"),
        ("transformer/config.json", {"sample_size": 0}, "sample_size must be at least 1"),
        ("vae/config.json", {"audio_channels": 0}, "num_channels must be at least 1, got 0"),
        ("vae/config.json", {"encoder_hidden_size": 14}, "latents' width of 6 or twice that"),
        ("scheduler/scheduler_config.json", {"sigma_data": 0.5}, "sigma_data is 0.5; expected 1"),
        ("scheduler/scheduler_config.json", {"sigma_min": 900}, "ratios must fall"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, "is 'DDIMScheduler'"),
        ("projection_model/config.json", {"text_encoder_dim": 9}, "has width 16, not 9"),
        ("projection_model/config.json", {"max_value": -1}, "low < high, got 0 to -1"),
        ("model_index.json", {"_class_name": "FluxPipeline"}, "FluxPipeline, which is not support"),
    ],
)
def test_other_settings_are_refused(
    copy: Path, path: str, settings: dict[str, Any], message: str
) -> None:
    change(copy / path, **settings)
    with pytest.raises(ValueError, match=message):
        lm_audio.load(copy)


def test_a_folder_with_another_pipeline_is_refused(copy: Path) -> None:
    change(copy / "model_index.json", _class_name="AudioLDMPipeline")
    with pytest.raises(ValueError, match=r"Expected StableAudioPipeline in the model_index\.json"):
        read_stable_audio(copy)


def test_parts_that_do_not_fit_each_other_are_named(
    make_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    shape = {"in_channels": 5, "out_channels": 5, "global_states_input_dim": 9}
    parts = make_parts(transformer={**shape, "cross_attention_input_dim": 7})
    message = (
        "do not match: the transformer has latents of width 5, the vae of 6; the transformer "
        "attends to width 7, not 16; the transformer takes vectors of width 9, not 32"
    )
    with pytest.raises(ValueError, match=message):
        lm_audio.load(write_parts(parts, tmp_path))


def test_precisions_and_encoders_without_effect_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="dtype int8 has no effect on this model"):
        lm_audio.load(folder, dtype="int8")
    with pytest.raises(
        ValueError, match="includes its text encoder, so text_encoder has no effect"
    ):
        lm_audio.load(folder, text_encoder=folder / "text_encoder")
