"""Loading folders of Dance Diffusion: what fits, what is refused and how."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DanceDiffusionPipeline, UNet1DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import lm_audio
from lm_audio.families.dance_diffusion.layout import read_dance_diffusion, write_dance_diffusion
from lm_audio.networks.condition import Fused
from lm_audio.networks.unet1d import UNet1d, UNet1dConfig
from lm_audio.sampling import Denoising

QUICK = Denoising(steps=2, solver="ipndm", guidance_scale=1.0)
WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be damaged."""
    shutil.copytree(folder, tmp_path / "model")
    return tmp_path / "model"


def change(folder: Path, part: str, **settings: Any) -> None:
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def clip(folder: Path, **settings: Any) -> Tensor:
    model = lm_audio.load(folder, **settings)
    return model.generate(duration=0.05, seed=1, sampling=QUICK).samples


def test_a_folder_is_recognised_and_its_licence_shown(folder: Path) -> None:
    model = lm_audio.load(folder)
    assert model.card.licence == "mit"
    assert (model.sample_rate, model.num_channels) == (1600, 2)
    assert model.conditions == ()


def test_the_catalogue_lists_the_published_models() -> None:
    found = {model.name: model for model in lm_audio.models()}
    assert found["maestro-150k"].source == "harmonai/maestro-150k"
    assert found["maestro-150k"].licence == "MIT"
    assert found["jmann-small-190k"].sample_rate == 48_000
    assert "text" not in found["honk-140k"].abilities


def test_the_published_configs_state_no_width_of_the_time(copy: Path, folder: Path) -> None:
    """Today's diffusers refuses them."""
    path = copy / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["time_embedding_dim"]
    path.write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"32|64"):
        UNet1DModel.from_pretrained(copy / "unet", low_cpu_mem_usage=False)
    assert torch.equal(clip(copy), clip(folder))


def test_pickles_without_code_are_read_like_safetensors(copy: Path, folder: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    torch.save(weights, copy / "unet" / "diffusion_pytorch_model.bin")
    (copy / WEIGHTS).unlink()
    assert torch.equal(clip(copy), clip(folder))


def test_half_precision_files_and_settings_load(copy: Path, folder: Path) -> None:
    weights = {name: weight.half() for name, weight in load_file(copy / WEIGHTS).items()}
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    torch.testing.assert_close(clip(copy), clip(folder), atol=0.1, rtol=0)
    assert clip(folder, dtype="bfloat16").isfinite().all()
    with pytest.raises(ValueError, match="does not run in int8"):
        lm_audio.load(folder, dtype="int8")


def test_a_window_that_the_network_cannot_take_is_rounded_up(copy: Path) -> None:
    for stated, window in ((90, 96), (3, 24)):
        change(copy, "unet", sample_size=stated)
        assert lm_audio.load(copy).stages["diffusion"].window_frames == window


@pytest.mark.parametrize("num_attending", [0, 2])
def test_what_is_written_loads_here_and_in_diffusers(tmp_path: Path, num_attending: int) -> None:
    torch.manual_seed(0)
    config = UNet1dConfig(
        in_channels=1, out_channels=1, widths=(32, 64, 32), num_attending=num_attending,
        time_width=6, cosine_first=False,
    )  # fmt: skip
    network = UNet1d(config)
    write_dance_diffusion(tmp_path / "model", network, sample_rate=800, window=48)
    model = lm_audio.load(tmp_path / "model")
    read = model.stages["diffusion"].network  # type: ignore[attr-defined]
    assert read.config == config
    assert (model.sample_rate, model.stages["diffusion"].window_frames) == (800, 48)
    theirs = DanceDiffusionPipeline.from_pretrained(tmp_path / "model").unet
    x, times = torch.randn(1, 1, 40), torch.tensor([0.4])
    with torch.no_grad():
        expected = theirs(x, times).sample
        assert torch.equal(read(x, times, Fused()), network(x, times, Fused()))
        torch.testing.assert_close(read(x, times, Fused()), expected, atol=1e-4, rtol=1e-4)


def test_a_network_with_conditions_cannot_be_written(tmp_path: Path) -> None:
    config = UNet1dConfig(
        in_channels=1, out_channels=1, widths=(32, 32), num_attending=1, stacked_channels=1
    )
    with pytest.raises(ValueError, match="conditions cannot be written in this layout"):
        write_dance_diffusion(tmp_path / "model", UNet1d(config), sample_rate=800, window=48)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("unet", {"act_fn": "silu"}, "act_fn is 'silu'"),
        ("unet", {"out_block_type": "OutConv1DBlock"}, "out_block_type is"),
        ("unet", {"time_embedding_type": "positional"}, "time_embedding_type is"),
        ("unet", {"use_timestep_embedding": True}, "use_timestep_embedding is True"),
        ("unet", {"time_embedding_dim": 8}, "time_embedding_dim is 8, but extra_in_channels is 16"),
        ("unet", {"down_block_types": ["DownBlock1D"] * 3}, "as the first block"),
        (
            "unet",
            {"down_block_types": ["DownBlock1DNoSkip", "DownBlock1D", "DownBlock1D"]},
            "do not mirror each other",
        ),
        (
            "unet",
            {"up_block_types": ["AttnUpBlock1D", "UpResnetBlock1D", "UpBlock1DNoSkip"]},
            "Unknown block 'UpResnetBlock1D'",
        ),
        ("unet", {"block_out_channels": [32, 64]}, "block_out_channels has not 3 entries"),
        ("unet", {"block_out_channels": [32, 32, 96]}, "shapes that do not match config.json"),
        ("unet", {"block_out_channels": [32, 32, 48]}, "multiples of 32 as widths, got 48"),
        ("unet", {"in_channels": 1}, "in_channels and out_channels differ"),
        ("unet", {"sample_rate": None}, "sample_rate and sample_size must be integers"),
        ("unet", {"sample_rate": 0}, "sample_rate must be at least 1, got 0"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "_class_name is 'DDIMScheduler'"),
        ("scheduler", {"trained_betas": [0.1]}, "trained_betas is"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    copy: Path, part: str, settings: dict[str, Any], message: str
) -> None:
    change(copy, part, **settings)
    with pytest.raises(ValueError, match=message) as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


def test_truncated_files_are_refused(copy: Path) -> None:
    path = copy / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete safetensors file; download it again"):
        lm_audio.load(copy)


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_missing_parts_are_named(copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=rf"{part}.* is missing") as error:
        lm_audio.load(copy)
    assert "\n" not in str(error.value)


def test_a_missing_weight_is_named(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    del weights["mid_block.resnets.0.conv_1.bias"]
    save_file(weights, copy / WEIGHTS)
    with pytest.raises(ValueError, match=r"unexpected weights: mid_block.resnets.0.conv_1.bias"):
        lm_audio.load(copy)


def test_another_pipeline_is_refused(copy: Path) -> None:
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="Expected DanceDiffusionPipeline in the"):
        read_dance_diffusion(copy)


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_with_code_is_refused_and_not_run(copy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (copy / WEIGHTS).unlink()
    hostile = pickle.dumps(Hostile(mark))
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(hostile)
    with pytest.raises(ValueError, match=r"Refused to read|Could not read"):
        lm_audio.load(copy)
    assert not mark.exists()
