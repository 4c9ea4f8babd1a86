"""Reads and writes Dance Diffusion in diffusers' layout: a folder with a U-Net and a scheduler.

model_index.json                 names the pipeline
unet/                            UNet1DModel: config.json and weights
scheduler/scheduler_config.json  IPNDMScheduler
"""

import json
from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.atomic import replacing_folder
from lm_audio.families.dance_diffusion.stages import dance_diffusion
from lm_audio.model import Model
from lm_audio.networks.unet1d import UNet1d, UNet1dConfig
from lm_audio.saving.files import folder_of, read_json, stated_licence
from lm_audio.saving.part_folder import (
    Config,
    check_fixed,
    read_config,
    read_network,
    write_network,
)
from lm_audio.saving.spectrograms import attending

PIPELINE = "DanceDiffusionPipeline"
_SCHEDULER = "IPNDMScheduler"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FIRST, _LAST = "DownBlock1DNoSkip", "UpBlock1DNoSkip"
_DOWN, _UP = ("AttnDownBlock1D", "DownBlock1D"), ("AttnUpBlock1D", "UpBlock1D")
# Settings of the U-Net with the only values that we support.
_FIXED: Config = {
    "act_fn": None,
    "downsample_each_block": False,
    "mid_block_type": "UNetMidBlock1D",
    "out_block_type": None,
    "time_embedding_type": "fourier",
    "use_timestep_embedding": False,
}
_SCHEDULER_FIXED: Config = {"trained_betas": None}


def read_dance_diffusion(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Model:
    """Reads a folder; on a CPU the file of its weights is mapped."""
    folder = folder_of(source)
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    if pipeline != PIPELINE:
        raise ValueError(
            f"Expected {PIPELINE} in the model_index.json of {folder}, got {pipeline}."
        )
    read_config(folder / "scheduler" / "scheduler_config.json", _check_scheduler)
    on_cpu = torch.device(device).type == "cpu"
    network, _ = read_network(folder / "unet", UNet1d, unet_config, mapped=on_cpu, dtype=dtype)
    sample_rate, window = read_config(folder / "unet" / "config.json", _rate_and_window)
    return dance_diffusion(
        network.to(device, dtype),
        sample_rate=sample_rate,
        window=window,
        licence=stated_licence(folder),
    )


def write_dance_diffusion(folder: Path, network: UNet1d, *, sample_rate: int, window: int) -> None:
    """Writes a folder for `lm_audio.load` and diffusers atomically."""
    index = {
        "_class_name": PIPELINE,
        "scheduler": ["diffusers", _SCHEDULER],
        "unet": ["diffusers", "UNet1DModel"],
    }
    scheduler = {"_class_name": _SCHEDULER, "num_train_timesteps": 1000, "trained_betas": None}
    config = {
        **_unet_settings(network.config),
        "sample_rate": sample_rate,
        "sample_size": window,
    }
    with replacing_folder(folder) as new:
        write_network(new / "unet", network.state_dict(), config, file=_WEIGHTS)
        (new / "scheduler").mkdir()
        for path, content in (
            (new / "scheduler" / "scheduler_config.json", scheduler),
            (new / "model_index.json", index),
        ):
            path.write_text(json.dumps(content, indent=2) + "\n")


def unet_config(config: Config) -> UNet1dConfig:
    """Of UNet1DModel."""
    check_fixed(config, _FIXED)
    down, up = config["down_block_types"], config["up_block_types"]
    if down[0] != _FIRST or up[-1] != _LAST:
        raise ValueError(
            f"Expected {_FIRST} as the first block and {_LAST} as the last one, got {down[0]} and "
            f"{up[-1]}."
        )
    attends = [attending(name, *_DOWN) for name in down[1:]]
    num_attending = sum(attends)
    mirrored = [attending(name, *_UP) for name in up[:-1]][::-1]
    if attends != mirrored or attends != sorted(attends):
        raise ValueError(
            f"The blocks {list(down)} and {list(up)} do not mirror each other, with attention in "
            "the deepest ones."
        )
    if len(config["block_out_channels"]) != len(down):
        raise ValueError(f"block_out_channels has not {len(down)} entries, one for each block.")
    if config["in_channels"] != config["out_channels"]:
        raise ValueError("in_channels and out_channels differ.")
    # The features of the time are the extra channels. Configs before diffusers 0.36 state only
    # these, and later ones may have None.
    extra = config["extra_in_channels"]
    if (time_width := config.get("time_embedding_dim") or extra) != extra:
        raise ValueError(
            f"time_embedding_dim is {time_width}, but extra_in_channels is {extra}. They must be "
            "equal."
        )
    return UNet1dConfig(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        widths=tuple(config["block_out_channels"]),
        num_attending=num_attending,
        time_width=time_width,
        cosine_first=config.get("flip_sin_to_cos", True),
    )


def _unet_settings(shape: UNet1dConfig) -> dict[str, Any]:
    if shape.stacked_channels or shape.has_level or shape.context_width:
        raise ValueError("A U-Net with conditions cannot be written in this layout.")
    plain = len(shape.widths) - 1 - shape.num_attending
    return {
        "_class_name": "UNet1DModel",
        **_FIXED,
        "block_out_channels": shape.widths,
        "down_block_types": [_FIRST, *[_DOWN[1]] * plain, *[_DOWN[0]] * shape.num_attending],
        "up_block_types": [*[_UP[0]] * shape.num_attending, *[_UP[1]] * plain, _LAST],
        "extra_in_channels": shape.time_width,
        "flip_sin_to_cos": shape.cosine_first,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "time_embedding_dim": shape.time_width,
    }


def _check_scheduler(config: Config) -> None:
    check_fixed(config, {"_class_name": _SCHEDULER, **_SCHEDULER_FIXED})


def _rate_and_window(config: Config) -> tuple[int, int]:
    rate, window = config["sample_rate"], config.get("sample_size", 65_536)
    if not isinstance(rate, int) or not isinstance(window, int):
        raise ValueError(f"sample_rate and sample_size must be integers, got {rate} and {window}.")
    shape = unet_config(config)
    window = max(window, shape.min_length)
    return rate, -(-window // shape.multiple) * shape.multiple
