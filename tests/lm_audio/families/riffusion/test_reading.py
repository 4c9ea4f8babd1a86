"""Loading Riffusion's folders: what fits, what is refused and how, and what is shown."""

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lm_audio
from audio_tokenizers.weights import unfilled
from lm_audio.families.riffusion.family import FAMILY
from lm_audio.families.riffusion.reading import read_riffusion
from lm_audio.networks.autoencoder2d import Autoencoder2d
from lm_audio.networks.unet2d import UNet2d
from lm_audio.sampling import Denoising
from lm_audio.saving.spectrograms import autoencoder_config
from lm_audio.saving.text_models import load_tokenizer, token_limit
from lm_audio.saving.unets import unet_config

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
PARTS = {"unet": "diffusion_", "vae": "diffusion_", "text_encoder": ""}


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, part: str, **settings: Any) -> None:
    names = {"scheduler": "scheduler/scheduler_config.json", "image": "spectrogram_image.json"}
    path = folder / names.get(part, f"{part}/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def clip(folder: Path, **settings: Any) -> torch.Tensor:
    model = lm_audio.load(folder, **settings)
    sampling = Denoising(steps=2)
    return model.generate("rain", duration=0.2, seed=1, sampling=sampling).samples


def test_a_folder_is_recognised_and_its_licence_shown(folder: Path) -> None:
    model = lm_audio.load(folder)
    assert model.card.licence == "creativeml-openrail-m"
    assert (model.sample_rate, model.num_channels) == (1600, 1)
    assert list(model.stages) == ["diffusion"]


def test_the_catalogue_lists_the_published_model() -> None:
    (found,) = (one for one in lm_audio.models() if one.name == "riffusion-model-v1")
    assert found.source == "riffusion/riffusion-model-v1"
    assert (found.licence, found.sample_rate) == ("CreativeML OpenRAIL-M", 44_100)


def test_programs_and_the_safety_checker_are_never_downloaded() -> None:
    from fnmatch import fnmatch

    patterns = [pattern for group in FAMILY.formats[0].files for pattern in group]
    for name in (
        "unet_traced/unet_traced.pt", "safety_checker/model.safetensors",
        "safety_checker/pytorch_model.bin", "riffusion-model-v1.ckpt",
    ):  # fmt: skip
        assert not any(fnmatch(name, pattern) for pattern in patterns)
    for part, stem in PARTS.items():
        name = f"{part}/{stem or ''}{'pytorch_model' if stem else 'model'}.safetensors"
        assert any(fnmatch(name, pattern) for pattern in patterns)


def test_what_is_not_used_is_not_read(copy: Path, folder: Path) -> None:
    for name in ("unet_traced/unet_traced.pt", "safety_checker/model.safetensors"):
        (copy / name).parent.mkdir()
        (copy / name).write_bytes(b"not a model")
    assert torch.equal(clip(copy), clip(folder))


def test_pickles_without_code_are_read_like_safetensors(copy: Path, folder: Path) -> None:
    for part, stem in PARTS.items():
        (found,) = (copy / part).glob("*.safetensors")
        torch.save(load_file(found), copy / part / f"{stem}pytorch_model.bin")
        found.unlink()
    torch.testing.assert_close(clip(copy), clip(folder), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_names_of_both_versions_of_transformers_are_read(
    copy: Path, folder: Path, prefix: str
) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    weights = {
        f"{prefix}{name.removeprefix('text_model.')}": x for name, x in load_file(path).items()
    }
    weights[f"{prefix}embeddings.position_ids"] = torch.arange(12)[None]
    save_file(weights, path)
    assert torch.equal(clip(copy), clip(folder))


def test_other_precisions_load(copy: Path, folder: Path) -> None:
    made = clip(folder, dtype="bfloat16")
    assert made.isfinite().all()
    with pytest.raises(ValueError, match="does not run in int8"):
        lm_audio.load(folder, dtype="int8")
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight.half() for name, weight in load_file(path).items()}, path)
    assert clip(copy).isfinite().all()


def test_a_stable_diffusion_without_spectrograms_gets_a_warning(
    make_parts: Make, write_parts: Write, tmp_path: Path
) -> None:
    """Nothing but its card or name tells a Riffusion from another Stable Diffusion."""
    folder = write_parts(make_parts(sample_size=256), tmp_path / "other")  # 512 rows
    (folder / "spectrogram_image.json").unlink()
    with pytest.warns(UserWarning, match="is a Stable Diffusion, whose images are heard"):
        lm_audio.load(folder)
    (folder / "README.md").write_text("# Riffusion, trained on my drums")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert lm_audio.load(folder).sample_rate == 44_100


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift is"),
        ("unet", {"addition_embed_type": "text"}, "addition_embed_type is 'text'"),
        ("unet", {"in_channels": 9}, "weight shapes that do not match config.json"),
        ("unet", {"cross_attention_dim": 21}, "weight shapes that do not match"),
        ("unet", {"sample_size": 64}, "makes images of 128 rows; expected 16 mel bands"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean is"),
        ("vae", {"layers_per_block": 2}, "missing or unexpected weights"),
        ("scheduler", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ("text_encoder", {"model_type": "bert"}, "a model of type bert; expected clip_text_model"),
        ("text_encoder", {"num_hidden_layers": 3}, "missing or unexpected weights"),
        ("image", {"stripes": 3}, "spectrogram_image.json is damaged"),
        ("image", {"high": 900}, "spectrogram_image.json is not supported: Mel bands need"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    copy: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    change(copy, part, **settings)
    with pytest.raises(ValueError, match=message) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", PARTS)
def test_truncated_files_are_refused(copy: Path, part: str) -> None:
    (path,) = (copy / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        lm_audio.load(copy)


@pytest.mark.parametrize("part", [*PARTS, "scheduler", "tokenizer"])
def test_missing_parts_are_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=part) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("unet", {"cross_attention_dim": 24}, "the unet attends to width 24, CLIP makes 20"),
        ("unet", {"in_channels": 9}, "the unet takes 9 channels and the vae makes 4"),
        ("vae", {"vae": {"latent_channels": 8}}, "the unet takes 4 channels and the vae makes 8"),
    ],
)
def test_parts_of_different_models_are_refused(
    copy: Path, make_parts: Make, name: str, overrides: dict[str, Any], message: str
) -> None:
    shutil.rmtree(copy / name)
    make_parts(**overrides)[name].save_pretrained(copy / name)
    with pytest.raises(ValueError, match=f"do not match: {message}"):
        lm_audio.load(copy)


def test_other_pipelines_are_refused(copy: Path) -> None:
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(ValueError, match="Expected StableDiffusionPipeline in the model_index"):
        read_riffusion(copy)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("part", PARTS)
def test_a_pickle_with_code_is_refused_and_not_run(copy: Path, tmp_path: Path, part: str) -> None:
    mark = tmp_path / "executed"
    (found,) = (copy / part).glob("*.safetensors")
    found.unlink()
    hostile = pickle.dumps(Hostile(mark))
    (copy / part / f"{PARTS[part]}pytorch_model.bin").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"Refused to read|Could not read"):
        lm_audio.load(copy)
    assert not mark.exists()


def test_the_published_shapes_have_the_published_numbers_of_parameters() -> None:
    """Those of Stable Diffusion 1.5, by its config files; nothing is filled."""
    unet: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel", "act_fn": "silu", "attention_head_dim": 8,
        "block_out_channels": [320, 640, 1280, 1280], "center_input_sample": False,
        "cross_attention_dim": 768, "downsample_padding": 1, "flip_sin_to_cos": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], "freq_shift": 0,
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "in_channels": 4,
        "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "out_channels": 4, "sample_size": 64,
    }  # fmt: skip
    vae: dict[str, Any] = {
        "_class_name": "AutoencoderKL", "act_fn": "silu", "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512], "in_channels": 3, "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "norm_num_groups": 32, "out_channels": 3,
        "up_block_types": ["UpDecoderBlock2D"] * 4, "sample_size": 512,
    }  # fmt: skip
    with unfilled():
        networks = UNet2d(unet_config(unet)), Autoencoder2d(autoencoder_config(vae))
    counts = [sum(x.numel() for x in network.parameters()) for network in networks]
    assert counts == [859_520_964, 83_653_863]


def test_the_published_layout_of_the_tokenizer_is_read(tmp_path: Path) -> None:
    """CLIP's own: byte pairs in lower case, where the end is the padding, too."""
    letters = [chr(code) for code in range(97, 123)]
    ends = [f"{letter}</w>" for letter in letters]
    words = [*letters, *ends, "ra", "in</w>", "rain</w>", "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nr a\ni n</w>\nra in</w>\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    special |= {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(tmp_path)
    assert token_limit(tokenizer) == 77
    assert tokenizer.pad_token_id == vocab["<|endoftext|>"]
    expected = ["<|startoftext|>", "rain</w>", "o", "n</w>", "<|endoftext|>"]
    assert tokenizer("Rain on").input_ids == [vocab[word] for word in expected]
