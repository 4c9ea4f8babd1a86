"""Loading AudioLDM's folders: what fits, what is refused and how, and what is shown."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

import lm_audio
from lm_audio.families.audioldm.reading import holds_audioldm, read_audioldm
from lm_audio.sampling import Denoising

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
QUICK = Denoising(steps=2)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, part: str, **settings: Any) -> None:
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def clip(folder: Path, **settings: Any) -> torch.Tensor:
    model = lm_audio.load(folder, **settings)
    return model.generate("rain", duration=0.1, seed=1, sampling=QUICK).samples


def test_a_folder_is_recognised_and_its_licence_shown(folder: Path, tmp_path: Path) -> None:
    assert holds_audioldm(folder)
    assert not holds_audioldm(tmp_path)
    model = lm_audio.load(folder)
    assert model.card.licence == "cc-by-nc-sa-4.0"
    assert model.sample_rate == 1600
    assert list(model.stages) == ["audio_language", "diffusion"]
    assert "diffusion" in repr(model)


def test_the_catalogue_lists_the_published_models() -> None:
    found = {model.name: model for model in lm_audio.models()}
    for name in ("audioldm2", "audioldm2-large", "audioldm2-music", "audioldm-s-full-v2"):
        assert found[name].licence == "CC-BY-NC-SA-4.0"
        assert found[name].sample_rate == 16_000
    assert found["audioldm2"].source == "cvssp/audioldm2"


def test_pickles_without_code_are_read_like_safetensors(copy: Path, folder: Path) -> None:
    for part in ("unet", "vae", "vocoder", "language_model", "projection_model"):
        (found,) = (copy / part).glob("*.safetensors")
        stem = "diffusion_pytorch_model" if found.stem.startswith("diffusion") else "pytorch_model"
        torch.save(load_file(found), copy / part / f"{stem}.bin")
        found.unlink()
    torch.testing.assert_close(clip(copy), clip(folder), atol=1e-4, rtol=0)


def test_half_precision_files_and_settings_load(copy: Path, folder: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {name: weight.half() for name, weight in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})
    torch.testing.assert_close(clip(copy), clip(folder), atol=0.1, rtol=0)
    made = clip(folder, dtype="bfloat16")
    assert made.isfinite().all()
    with pytest.raises(ValueError, match="does not run in int8"):
        lm_audio.load(folder, dtype="int8")


def test_old_names_of_attention_and_normalised_weights_load(copy: Path, folder: Path) -> None:
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(path)
    for new, name in old.items():
        weights = {key.replace(f".{new}.", f".{name}."): x for key, x in weights.items()}
    for key in [key for key in weights if ".query.weight" in key]:
        weights[key] = weights[key][:, :, None, None].contiguous()
    save_file(weights, path)
    voice = copy / "vocoder" / "model.safetensors"
    weights = load_file(voice)
    weight = weights.pop("conv_pre.weight")
    weights["conv_pre.weight_g"] = weight.flatten(1).norm(dim=1)[:, None, None]
    weights["conv_pre.weight_v"] = weight * 3
    save_file(weights, voice)
    torch.testing.assert_close(clip(copy), clip(folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift is"),
        ("unet", {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}, "Unknown block"),
        ("unet", {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}, "do not mirror"),
        ("unet", {"class_embed_type": "identity"}, "class_embed_type is 'identity'"),
        ("unet", {"norm_num_groups": 5}, "Widths must be multiples of the 5 groups"),
        ("unet", {"attention_head_dim": 3}, "is not a multiple of its 3 heads"),
        ("unet", {"block_out_channels": [8, 24]}, r"weight shapes that do not match config.json"),
        ("unet", {"in_channels": "x"}, "config.json is not supported"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean is"),
        ("vae", {"layers_per_block": 2}, "missing or unexpected weights"),
        ("vocoder", {"model_in_dim": 9}, "weight shapes that do not match"),
        ("vocoder", {"upsample_rates": [4]}, "one kernel per rate"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ("scheduler", {"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ("scheduler", {"clip_sample": True}, "clip_sample is True"),
        ("scheduler", {"beta_end": 2.0}, "Betas must satisfy"),
        ("language_model", {"n_head": 3}, "is not a multiple of its 3 heads"),
        ("language_model", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("projection_model", {"text_encoder_1_dim": 21}, "weight shapes that do not match"),
        ("text_encoder_2", {"model_type": "bert"}, "a model of type bert; expected type t5"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    copy: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    change(copy, part, **settings)
    with pytest.raises(ValueError, match=message) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part", ["unet", "vae", "vocoder", "language_model", "projection_model", "text_encoder"]
)
def test_truncated_files_are_refused(copy: Path, part: str) -> None:
    (path,) = (copy / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    "part",
    ["unet", "vae", "vocoder", "scheduler", "tokenizer", "tokenizer_2", "text_encoder_2"],
)
def test_missing_parts_are_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=part) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


def test_parts_of_different_models_are_refused(copy: Path, make_parts: Make) -> None:
    other = make_parts(cross_attention_dim=[[None, 20, 16]] * 2)
    shutil.rmtree(copy / "unet")
    other["unet"].save_pretrained(copy / "unet")
    with pytest.raises(ValueError, match="do not match: the unet attends to width 20 instead of"):
        lm_audio.load(copy)


def test_a_missing_weight_is_named(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.bias"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"missing or unexpected weights: conv_in.bias"):
        lm_audio.load(copy)


def test_other_pipelines_and_broken_indices_are_refused(copy: Path) -> None:
    index = copy / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="is a FluxPipeline, which is not supported"):
        lm_audio.load(copy)
    with pytest.raises(ValueError, match="Expected AudioLDMPipeline or AudioLDM2Pipeline"):
        read_audioldm(copy)
    index.write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        lm_audio.load(copy)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_with_code_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    hostile = pickle.dumps(Hostile(mark))
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"Refused to read|Could not read"):
        lm_audio.load(copy)
    assert not mark.exists()


def test_loading_opens_no_connection(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    assert clip(folder).shape == (1, 160)


def test_gpt2_without_a_head_makes_the_same_clip(
    parts: dict[str, Any], folder: Path, write_parts: Write, tmp_path: Path
) -> None:
    language: GPT2LMHeadModel = parts["language_model"]
    bare = write_parts({**parts, "language_model": language.transformer}, tmp_path)
    assert torch.equal(clip(bare), clip(folder))


def test_takes_are_ranked_by_clap(folder: Path, parts: dict[str, Any]) -> None:
    model = lm_audio.load(folder)
    judge = model.model.judge
    assert judge is not None
    torch.manual_seed(0)
    samples = 0.1 * torch.randn(1, 48_000)
    found = judge.score(samples, 48_000, "rain on tin")
    inputs = parts["feature_extractor"](
        [samples[0].numpy()], sampling_rate=48_000, return_tensors="pt"
    )
    inputs["is_longer"] = torch.zeros(1, 1, dtype=torch.bool)
    words = parts["tokenizer"]("rain on tin", return_tensors="pt")
    with torch.no_grad():
        out = parts["text_encoder"](
            input_ids=words.input_ids, attention_mask=words.attention_mask, **inputs
        )
    expected = (out.audio_embeds @ out.text_embeds.T).item()
    assert found == pytest.approx(expected, abs=1e-4)
    best = model.generate("rain", duration=0.1, seed=1, best_of=2, sampling=QUICK)
    assert best.samples.shape == (1, 160)


def test_the_first_audioldm_has_no_judge(
    make_first_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    folder = write_parts(make_first_parts(), tmp_path, name="AudioLDMPipeline")
    model = lm_audio.load(folder)
    assert model.model.judge is None
    assert clip(folder).shape == (1, 160)
