"""Settings of diffusers' config files, as settings of our networks.

A setting that our networks lack, with a value that would change the result, is an error.
"""

import math
from collections.abc import Mapping
from typing import Any

from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.networks.audio_dit import AudioDiTConfig
from lm_audio.networks.oobleck import OobleckConfig
from lm_audio.saving.part_folder import check_fixed

Config = Mapping[str, Any]
TIME_RANGE = (0.5, 10_000.0)
"""The frequencies of the time in Stable Audio 3."""
_COSINE_FIXED: Config = {
    "_class_name": "CosineDPMSolverMultistepScheduler",
    "sigma_data": 1.0,
    "sigma_schedule": "exponential",
    "prediction_type": "v_prediction",
    "final_sigmas_type": "zero",
}


def first_dit_config(config: Config) -> AudioDiTConfig:
    """Of StableAudioDiTModel."""
    heads, width = config["num_attention_heads"], config["attention_head_dim"]
    check_fixed(config, {"out_channels": config["in_channels"]})
    condition_dim = config["cross_attention_dim"]
    num_condition_heads = config["num_key_value_attention_heads"]
    return AudioDiTConfig(
        width=config["in_channels"],
        dim=heads * width,
        num_layers=config["num_layers"],
        num_heads=heads,
        num_condition_heads=num_condition_heads,
        condition_width=config["cross_attention_input_dim"],
        condition_dim=condition_dim,
        vector_width=config["global_states_input_dim"],
        hidden_dim=4 * heads * width,
        num_waves=config["time_proj_dim"] // 2,
    )


def third_dit_config(config: Config) -> AudioDiTConfig:
    """Of StableAudio3DiTModel."""
    dim, heads = config["embed_dim"], config["num_heads"]
    return AudioDiTConfig(
        width=config["io_channels"],
        dim=dim,
        num_layers=config["depth"],
        num_heads=heads,
        num_condition_heads=heads,
        condition_width=config["cond_token_dim"],
        condition_dim=dim,
        vector_width=config["global_cond_dim"],
        hidden_dim=int(dim * config["ff_mult"]),
        num_waves=config["timestep_features_dim"] // 2,
        wave_range=TIME_RANGE,
        head_norm="rms",
        modulated=True,
        differential=config["use_differential_attention"],
        num_memories=config["num_memory_tokens"],
        known_width=config["local_add_cond_dim"],
        patch=config["patch_size"],
    )


def oobleck_config(config: Config) -> OobleckConfig:
    """Of AutoencoderOobleck."""
    return OobleckConfig(
        num_channels=config["audio_channels"],
        sample_rate=config["sampling_rate"],
        encoder_width=config["encoder_hidden_size"],
        decoder_width=config["decoder_channels"],
        multiples=tuple(config["channel_multiples"]),
        rates=tuple(config["downsampling_ratios"]),
        latent_width=config["decoder_input_channels"],
        code_width=config["encoder_hidden_size"],
    )


def cosine_schedule_of(config: Config) -> tuple[NoiseSchedule, Predicts]:
    """Of CosineDPMSolverMultistepScheduler."""
    check_fixed(config, _COSINE_FIXED)
    ratios = (float(config["sigma_max"]), float(config["sigma_min"]))
    return NoiseSchedule(kind="angle", spacing="exponential", ratios=ratios), "v"


def log_ratio_schedule(most: float, least: float) -> NoiseSchedule:
    """Of a flow model whose runs space the logarithm of sigma / alpha evenly."""
    return NoiseSchedule(
        kind="flow", spacing="exponential", ratios=(math.exp(most), math.exp(least))
    )
