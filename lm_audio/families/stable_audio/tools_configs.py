"""Settings of stable-audio-tools' model_config.json, as settings of our networks.

A setting that our networks lack is an error, unless its value changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_audio.families.stable_audio.configs import Config, log_ratio_schedule
from lm_audio.families.stable_audio.reading import SAMPLING
from lm_audio.families.stable_audio.stages import TIMINGS
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.networks.audio_dit import AudioDiTConfig
from lm_audio.networks.oobleck import OobleckConfig
from lm_audio.sampling import Denoising
from lm_audio.saving.part_folder import check_fixed

_ANGLE = NoiseSchedule(kind="angle", spacing="exponential", ratios=(500.0, 0.3))
_FLOW = log_ratio_schedule(6.0, -2.0)
_OBJECTIVES: Mapping[str, tuple[Predicts, NoiseSchedule, Denoising]] = {
    "v": ("v", _ANGLE, SAMPLING),
    "rectified_flow": ("flow", _FLOW, Denoising(steps=50, solver="euler", guidance_scale=7.0)),
    "rf_denoiser": ("flow", _FLOW, Denoising(steps=8, solver="ping-pong", guidance_scale=1.0)),
}
_DIT_FIXED: Config = {
    "transformer_type": "continuous_transformer",
    "global_cond_type": "prepend",
    "timestep_cond_type": "global",
    "project_global_cond": True,
    "input_concat_dim": 0,
    "prepend_cond_dim": 0,
    "patch_size": 1,
}
_DIT_READ = (
    "io_channels", "embed_dim", "depth", "num_heads", "cond_token_dim", "global_cond_dim",
    "project_cond_tokens", "attn_kwargs", "num_memory_tokens",
)  # fmt: skip
_MOST_TEXT = 128  # tokens, if the settings state no limit
_HEAD_NORMS = {"none": "none", "ln": "layer"}
_LEAST_HEAD = 64  # smaller heads are rotated beyond their half


@dataclass(frozen=True, kw_only=True)
class ToolsConditions:
    """The conditions of a checkpoint.

    Args:
        t5_name: of the public T5.
        dim: the width of all conditions.
        projected: whether the text goes through a linear layer even if its width fits.
        ranges: of the times, by name.
        attended, shared: the names of the times that the transformer attends to, and of those
            that all frames share.
    """

    t5_name: str
    max_length: int
    dim: int
    projected: bool
    ranges: Mapping[str, tuple[float, float]]
    attended: tuple[str, ...]
    shared: tuple[str, ...]


def num_samples_of(settings: Config) -> int:
    """Of the clips in training."""
    return int(settings["sample_size"])


def objective_of(settings: Config) -> tuple[Predicts, NoiseSchedule, Denoising]:
    name = settings["model"]["diffusion"].get("diffusion_objective", "v")
    if name not in _OBJECTIVES:
        raise ValueError(
            f"diffusion_objective is {name!r}; expected one of {', '.join(_OBJECTIVES)}."
        )
    return _OBJECTIVES[name]


def tools_dit_config(settings: Config) -> AudioDiTConfig:
    diffusion = settings["model"]["diffusion"]
    check_fixed(diffusion, {"type": "dit", "input_concat_ids": [], "prepend_cond_ids": []})
    config = diffusion["config"]
    check_fixed(config, _DIT_FIXED)
    attention = config.get("attn_kwargs", {})
    _check_known("config", config, (*_DIT_FIXED, *_DIT_READ))
    _check_known("attn_kwargs", attention, ("qk_norm",))
    norm = attention.get("qk_norm", "none")
    if norm not in _HEAD_NORMS:
        raise ValueError(f"qk_norm is {norm!r}; expected one of {', '.join(_HEAD_NORMS)}.")
    dim, heads, width = config["embed_dim"], config["num_heads"], config["cond_token_dim"]
    if dim < heads * _LEAST_HEAD:
        raise ValueError(f"Heads must be at least {_LEAST_HEAD} wide, got {heads} in {dim}.")
    condition_dim = dim if config.get("project_cond_tokens", True) else width
    return AudioDiTConfig(
        width=config["io_channels"],
        dim=dim,
        num_layers=config["depth"],
        num_heads=heads,
        num_condition_heads=condition_dim // (dim // heads),
        condition_width=width,
        condition_dim=condition_dim,
        vector_width=config["global_cond_dim"],
        hidden_dim=4 * dim,
        head_norm=_HEAD_NORMS[norm],  # type: ignore[arg-type]
        num_memories=config.get("num_memory_tokens", 0),
    )


def tools_oobleck_config(settings: Config) -> OobleckConfig:
    pretransform = settings["model"]["pretransform"]
    check_fixed(pretransform, {"type": "autoencoder", "scale": 1.0})
    config = pretransform["config"]
    encoder, decoder = config["encoder"], config["decoder"]
    for half in (encoder, decoder):
        check_fixed(half, {"type": "oobleck"})
        check_fixed(half["config"], {"use_snake": True, "antialias_activation": False})
    check_fixed(config.get("bottleneck", {}), {"type": "vae"})
    encoder, decoder = encoder["config"], decoder["config"]
    check_fixed(encoder, {name: decoder[name] for name in ("c_mults", "strides")})
    return OobleckConfig(
        num_channels=config["io_channels"],
        sample_rate=settings["sample_rate"],
        encoder_width=encoder["channels"],
        decoder_width=decoder["channels"],
        multiples=tuple(encoder["c_mults"]),
        rates=tuple(encoder["strides"]),
        latent_width=config["latent_dim"],
        code_width=encoder["latent_dim"],
        bounded=decoder.get("final_tanh", True),
    )


def conditions_of(settings: Config) -> ToolsConditions:
    model = settings["model"]
    known = {one["id"]: one for one in model["conditioning"]["configs"]}
    diffusion = model["diffusion"]
    attended, shared = diffusion["cross_attention_cond_ids"], diffusion["global_cond_ids"]
    prompt = known.pop("prompt")
    check_fixed(prompt, {"type": "t5"})
    for name, one in known.items():
        check_fixed(one, {"type": "number"})
        if name not in TIMINGS:
            raise ValueError(f"Unknown condition {name!r}; expected {', '.join(TIMINGS)}.")
    if attended[:1] != ["prompt"] or not {*attended[1:], *shared} <= known.keys():
        raise ValueError(
            "Expected prompt as the first and numbers as the other cross_attention_cond_ids, and "
            f"numbers as the global_cond_ids, got {attended} and {shared}."
        )
    ranges = {name: one["config"] for name, one in known.items()}
    return ToolsConditions(
        t5_name=prompt["config"]["t5_model_name"],
        max_length=prompt["config"].get("max_length", _MOST_TEXT),
        dim=model["conditioning"]["cond_dim"],
        projected=prompt["config"].get("project_out", False),
        ranges={name: (x.get("min_val", 0), x.get("max_val", 1)) for name, x in ranges.items()},
        attended=tuple(attended[1:]),
        shared=tuple(shared),
    )


def _check_known(name: str, config: Mapping[str, Any], known: Sequence[str]) -> None:
    others = sorted(set(config) - set(known))
    if others:
        raise ValueError(f"{name} has settings that are not supported: {', '.join(others)}.")
