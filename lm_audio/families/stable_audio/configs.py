"""Settings of diffusers' config files, as settings of our networks.

A setting that our networks lack, with a value that would change the result, is an error.
"""

import math
from collections.abc import Mapping
from typing import Any

from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.networks.audio_dit import AudioDiTConfig
from lm_audio.networks.oobleck import OobleckConfig
from lm_audio.networks.same import SameConfig
from lm_audio.sampling import Denoising
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

_FLOW_FIXED: Config = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1,  # the network's time is sigma
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
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


def same_config(config: Config) -> SameConfig:
    """Of AutoencoderSAME."""
    rates = tuple(config["encoder_strides"])

    def each(name: str) -> tuple[int, ...]:
        values = tuple(config[name])
        return values * len(rates) if len(values) == 1 else values

    return SameConfig(
        num_channels=config["audio_channels"],
        sample_rate=config["sampling_rate"],
        patch=config["patch_size"],
        width=config["encoder_channels"],
        multiples=tuple(config["encoder_c_mults"]),
        rates=rates,
        depths=tuple(config["encoder_transformer_depths"]),
        latent_width=config["latent_dim"],
        head_dim=config["dim_heads"],
        hidden_ratio=config["ff_mult"],
        reach=config["sliding_window"],
        differential=config["use_differential_attention"],
        encoder_sines=each("encoder_sinusoidal_blocks"),
        decoder_sines=each("decoder_sinusoidal_blocks"),
    )


def flow_schedule_of(config: Config) -> tuple[NoiseSchedule, Denoising]:
    """Of FlowMatchEulerDiscreteScheduler; stochastic for models distilled to few steps."""
    check_fixed(config, _FLOW_FIXED)
    few = Denoising(steps=8, solver="ping-pong", guidance_scale=1.0)
    many = Denoising(steps=50, solver="euler", guidance_scale=7.0)
    return log_ratio_schedule(6.2, -2.0), few if config.get("stochastic_sampling") else many


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
