"""BigVGAN vocoders: the settings of the original's config, and its weights.

Folders that we write have the names of the original in config.json and model.safetensors.
"""

from typing import Any

import torch
from torch import Tensor

from lm_audio.networks.big_vgan import BigVganConfig, low_pass
from lm_audio.saving.part_folder import Config, check_fixed

MODEL_TYPE = "bigvgan"
_FIXED: Config = {"resblock": "1", "activation": "snakebeta", "snake_logscale": True}


def big_vgan_config(config: Config) -> BigVganConfig:
    """Of a vocoder of the original repository or of our own writing."""
    check_fixed(config, _FIXED)
    return BigVganConfig(
        num_mels=config["num_mels"],
        sample_rate=config["sampling_rate"],
        width=config["upsample_initial_channel"],
        rates=tuple(config["upsample_rates"]),
        kernels=tuple(config["upsample_kernel_sizes"]),
        block_kernels=tuple(config["resblock_kernel_sizes"]),
        block_dilations=tuple(tuple(x) for x in config["resblock_dilation_sizes"]),
        tanh=config.get("use_tanh_at_final", True),
        last_bias=config.get("use_bias_at_final", True),
    )


def big_vgan_settings(shape: BigVganConfig) -> dict[str, Any]:
    """What `big_vgan_config` reads."""
    return {
        "model_type": MODEL_TYPE,
        **_FIXED,
        "num_mels": shape.num_mels,
        "sampling_rate": shape.sample_rate,
        "upsample_initial_channel": shape.width,
        "upsample_rates": shape.rates,
        "upsample_kernel_sizes": shape.kernels,
        "resblock_kernel_sizes": shape.block_kernels,
        "resblock_dilation_sizes": shape.block_dilations,
        "use_tanh_at_final": shape.tanh,
        "use_bias_at_final": shape.last_bias,
    }


def without_filters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out the stored filters of the activations, which are always the same."""
    kept = {}
    for name, weight in weights.items():
        if not name.endswith((".upsample.filter", ".downsample.lowpass.filter")):
            kept[name] = weight
        elif weight.numel() != len(low_pass()) or not torch.allclose(
            weight.flatten().float(), low_pass(), atol=1e-3
        ):
            raise ValueError(f"The filter {name} is not the one of published BigVGANs.")
    return kept
