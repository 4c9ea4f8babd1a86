"""Loading Make-An-Audio: both layouts, what is refused and how, and what is written."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lm_audio
from lm_audio.families.make_an_audio.original_layout import holds_original, read_original
from lm_audio.families.make_an_audio.reading import read_make_an_audio
from lm_audio.families.make_an_audio.writing import write_make_an_audio
from lm_audio.sampling import Denoising

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
QUICK = Denoising(steps=2)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def original(parts: dict[str, Any], write_original_parts: Write, tmp_path: Path) -> Path:
    return write_original_parts(parts, tmp_path / "original")


def change(folder: Path, part: str, **settings: Any) -> None:
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def clip(folder: Path, **settings: Any) -> torch.Tensor:
    model = lm_audio.load(folder, **settings)
    return model.generate("rain", duration=0.02, seed=1, sampling=QUICK).samples


def test_a_folder_is_recognised_and_its_licence_shown(folder: Path) -> None:
    model = lm_audio.load(folder)
    assert model.card.licence == "mit"
    assert model.sample_rate == 16_000
    assert model.conditions == ("text",)
    assert list(model.stages) == ["diffusion"]


def test_both_layouts_make_the_same_clip(folder: Path, original: Path) -> None:
    assert holds_original(original)
    assert not holds_original(folder)
    torch.testing.assert_close(clip(original), clip(folder), atol=3e-5, rtol=0)


def test_clap_may_be_in_a_file_of_its_own(
    parts: dict[str, Any], folder: Path, write_original_parts: Write, tmp_path: Path
) -> None:
    apart = write_original_parts(parts, tmp_path / "apart", clap_apart=True)
    torch.testing.assert_close(clip(apart), clip(folder), atol=3e-5, rtol=0)
    (apart / "CLAP" / "CLAP_weights_2022.pth").unlink()
    with pytest.raises(ValueError, match=r"CLAP_weights_2022.pth is missing"):
        lm_audio.load(apart)


def test_a_tokenizer_may_be_elsewhere(original: Path, folder: Path, tmp_path: Path) -> None:
    (original / "tokenizer").rename(tmp_path / "words")
    made = clip(original, text_encoder=tmp_path / "words")
    torch.testing.assert_close(made, clip(folder), atol=3e-5, rtol=0)
    with pytest.raises(ValueError, match="Could not read a tokenizer from"):
        lm_audio.load(original, text_encoder=folder / "unet")


@pytest.mark.parametrize("channels", [4, 9])
def test_what_is_written_is_read_back(
    channels: int, make_parts: Make, write_original_parts: Write, tmp_path: Path
) -> None:
    parts = make_parts(in_channels=channels)
    original = write_original_parts(parts, tmp_path / "original")
    read = read_original(original, tokenizer=original / "tokenizer")
    write_make_an_audio(read, tmp_path / "written")
    torch.testing.assert_close(clip(tmp_path / "written"), clip(original), atol=3e-5, rtol=0)
    again = read_make_an_audio(tmp_path / "written")
    assert again.renderer.identity == read.renderer.identity
    assert again.schedule == read.schedule
    assert again.unet.config == read.unet.config
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        found, report = kind.from_pretrained(tmp_path / "written" / part, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        expected = parts[part].state_dict()
        assert all(torch.equal(x, expected[name]) for name, x in found.state_dict().items())
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "written" / "scheduler")
    assert torch.equal(scheduler.alphas_cumprod, parts["scheduler"].alphas_cumprod)


def test_other_precisions(folder: Path, original: Path) -> None:
    for one in (folder, original):
        assert clip(one, dtype="bfloat16").isfinite().all()
        with pytest.raises(ValueError, match="does not run in int8"):
            lm_audio.load(one, dtype="int8")


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"in_channels": 5}, "weight shapes that do not match"),
        ("unet", {"down_block_types": ["CrossAttnDownBlock2D", "X"]}, "Unknown block 'X'"),
        ("vae", {"layers_per_block": 2}, "missing or unexpected weights"),
        ("vocoder", {"activation": "snake"}, "activation is 'snake'; expected 'snakebeta'"),
        ("vocoder", {"num_mels": 17}, "weight shapes that do not match"),
        ("text_encoder", {"model_type": "roberta"}, "model_type is 'roberta'; expected 'bert'"),
        ("text_encoder", {"projection_dim": 40}, "weight shapes that do not match"),
        ("scheduler", {"clip_sample": True}, "clip_sample is True"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    copy: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    change(copy, part, **settings)
    with pytest.raises(ValueError, match=message) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["unet", "vae", "vocoder", "text_encoder"])
def test_truncated_files_are_refused(copy: Path, part: str) -> None:
    (path,) = (copy / part).glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    "part", ["unet", "vae", "vocoder", "text_encoder", "scheduler", "tokenizer"]
)
def test_missing_parts_are_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=part) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


def test_parts_of_different_models_are_refused(copy: Path, make_parts: Make) -> None:
    shutil.rmtree(copy / "unet")
    make_parts(cross_attention_dim=40)["unet"].save_pretrained(copy / "unet")
    with pytest.raises(ValueError, match="do not match: The unet attends to tokens of width 40"):
        lm_audio.load(copy)
    shutil.rmtree(copy / "unet")
    make_parts(in_channels=5)["unet"].save_pretrained(copy / "unet")
    with pytest.raises(ValueError, match="do not match: The unet maps 5 channels to 4"):
        lm_audio.load(copy)


def test_a_missing_weight_is_named(copy: Path) -> None:
    path = copy / "text_encoder" / "model.safetensors"
    weights = load_file(path)
    del weights["projection.linear1.weight"]
    save_file(weights, path)
    with pytest.raises(ValueError, match=r"missing or unexpected weights: projection.linear1"):
        lm_audio.load(copy)


@pytest.mark.parametrize(
    "name", ["maa1_full.ckpt", "bigvgan/best_netG.pt", "bigvgan/args.yml", "txt2audio_args.yaml"]
)
def test_damaged_files_of_the_original_are_refused(original: Path, name: str) -> None:
    path = original / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] + b"\n]: [")
    with pytest.raises(ValueError, match=path.name) as error:
        lm_audio.load(original)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["bigvgan/best_netG.pt", "bigvgan/args.yml"])
def test_missing_files_of_the_original_are_named(original: Path, name: str) -> None:
    (original / name).unlink()
    with pytest.raises(ValueError, match=f"{Path(name).name} is missing"):
        lm_audio.load(original)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("mel_length",), None, "has no mel_length"),
        (("linear_end",), 0.02, "The betas in .* are not those of txt2audio_args.yaml"),
        (("unet_config", "params", "resblock_updown"), True, "resblock_updown is True"),
        (("unet_config", "params", "model_channels"), 64, "that do not match txt2audio_args.yaml"),
    ],
)
def test_settings_of_the_original_that_do_not_fit_are_named(
    original: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    file = original / "txt2audio_args.yaml"
    settings = yaml.safe_load(file.read_text())
    inner = settings["model"]["params"]
    for name in path[:-1]:
        inner = inner[name]
    inner.pop(path[-1], None)
    if value is not None:
        inner[path[-1]] = value
    file.write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=message):
        lm_audio.load(original)


def test_the_published_settings_are_the_default(original: Path) -> None:
    (original / "txt2audio_args.yaml").unlink()
    with pytest.raises(ValueError, match=r"conv_in.bias \(\[32\] instead of \[320\]\)"):
        lm_audio.load(original)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["maa1_full.ckpt", "bigvgan/best_netG.pt"])
def test_a_pickle_with_code_is_refused_and_not_run(
    original: Path, tmp_path: Path, name: str
) -> None:
    mark = tmp_path / "executed"
    (original / name).write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(ValueError, match=r"Refused to read|Could not read"):
        lm_audio.load(original)
    assert not mark.exists()
