"""U-Nets and noise schedules in the config files of diffusers, as settings of ours.

A setting that our networks lack, with a value that would change the result, is an error.
"""

from collections.abc import Sequence
from typing import Any

from lm_audio.generation.noise_schedule import Kind, NoiseSchedule, Predicts
from lm_audio.networks.unet2d import Attends, UNet2dConfig
from lm_audio.saving.part_folder import Config, check_fixed
from lm_audio.saving.spectrograms import attending

# Settings of the U-Net with the only values that we support.
_UNET_FIXED: Config = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "upcast_attention": False,
}
_SCHEDULER_FIXED: Config = {
    "clip_sample": False,
    "rescale_betas_zero_snr": False,
    "thresholding": False,
    "trained_betas": None,
}
_KINDS: dict[str, Kind] = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
}
_PREDICTS: dict[str, Predicts] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


def unet_config(config: Config) -> UNet2dConfig:
    """Of AudioLDM2UNet2DConditionModel or UNet2DConditionModel."""
    check_fixed(config, _UNET_FIXED)
    widths = tuple(config["block_out_channels"])
    levels = len(widths)
    down, up = config["down_block_types"], config["up_block_types"]
    attends_at = [attending(name, "CrossAttnDownBlock2D", "DownBlock2D") for name in down]
    if attends_at != [attending(x, "CrossAttnUpBlock2D", "UpBlock2D") for x in up][::-1]:
        raise ValueError(f"The blocks {list(down)} and {list(up)} do not mirror each other.")
    attends = _attends(config, levels)
    kind = config.get("class_embed_type")
    if kind not in (None, "projection", "simple_projection"):
        raise ValueError(f"class_embed_type is {kind!r}; expected projection or simple_projection.")
    return UNet2dConfig(
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        widths=widths,
        attends=tuple(one if yes else () for one, yes in zip(attends, attends_at, strict=True)),
        middle=attends[-1],
        num_blocks=_each(config.get("layers_per_block", 2), levels),
        num_layers=_each(config.get("transformer_layers_per_block", 1), levels),
        # diffusers calls the number of heads their width.
        num_heads=_each(config.get("attention_head_dim", 8), levels),
        num_groups=config.get("norm_num_groups", 32),
        eps=config.get("norm_eps", 1e-5),
        linear=config.get("use_linear_projection", False),
        vector_width=config["projection_class_embeddings_input_dim"] if kind else 0,
        hidden_vector=kind == "projection",
        concatenated=config.get("class_embeddings_concat", False),
        cosine_first=config.get("flip_sin_to_cos", True),
        shift=config.get("freq_shift", 0),
    )


def _attends(config: Config, levels: int) -> list[tuple[Attends, ...]]:
    """The transformers after each block: AudioLDM 2 picks contexts by place, not by width."""
    if config["_class_name"] != "AudioLDM2UNet2DConditionModel":
        if config.get("class_embed_type") is not None:
            # Without a context, attention to one of the block's own width is self-attention.
            return [(Attends(),)] * levels
        widths = _each(config["cross_attention_dim"], levels)
        return [(Attends(width=width),) for width in widths]
    widths = config["cross_attention_dim"]
    listed = widths if isinstance(widths, list | tuple) else [widths] * levels
    if len(listed) != levels:
        raise ValueError(f"cross_attention_dim has {len(listed)} entries for {levels} levels.")
    made = []
    for level in listed:
        several = level if isinstance(level, list | tuple) else [level]
        made.append(tuple(Attends(width=x, context=int(i > 1)) for i, x in enumerate(several)))
    return made


def schedule_of(config: Config) -> tuple[NoiseSchedule, Predicts]:
    """Of any scheduler with betas, such as DDIMScheduler: the solver is the user's choice."""
    check_fixed(config, _SCHEDULER_FIXED)
    kind, predicts = config["beta_schedule"], config.get("prediction_type", "epsilon")
    for name, value, choices in (
        ("beta_schedule", kind, _KINDS),
        ("prediction_type", predicts, _PREDICTS),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
    schedule = NoiseSchedule(
        kind=_KINDS[kind],
        spacing=config.get("timestep_spacing", "leading"),
        num_train_steps=config.get("num_train_timesteps", 1000),
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        offset=config.get("steps_offset", 0),
        ends_clean=config.get("set_alpha_to_one", True),
    )
    return schedule, _PREDICTS[predicts]


def unet_settings(shape: UNet2dConfig) -> dict[str, Any]:
    """What `unet_config` reads of a network whose transformers all attend to one context."""
    contexts = {one.width for one in shape.middle}
    usual = [(), shape.middle]
    if len(shape.middle) != 1 or len(contexts - {None}) != 1 or shape.vector_width:
        raise ValueError("Only a U-Net that attends to one context can be written in this layout.")
    if any(level not in usual for level in shape.attends):
        raise ValueError("All levels of the U-Net must attend alike, to be written in this layout.")
    attends = [bool(level) for level in shape.attends]
    return {
        "_class_name": "UNet2DConditionModel",
        **_UNET_FIXED,
        "in_channels": shape.in_channels,
        "out_channels": shape.out_channels,
        "block_out_channels": shape.widths,
        "down_block_types": ["CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if yes else "UpBlock2D" for yes in attends[::-1]],
        "layers_per_block": shape.num_blocks,
        "transformer_layers_per_block": shape.num_layers,
        "attention_head_dim": shape.num_heads,
        "cross_attention_dim": shape.middle[0].width,
        "norm_num_groups": shape.num_groups,
        "norm_eps": shape.eps,
        "use_linear_projection": shape.linear,
        "flip_sin_to_cos": shape.cosine_first,
        "freq_shift": shape.shift,
    }


def schedule_settings(schedule: NoiseSchedule, predicts: Predicts) -> dict[str, Any]:
    """What `schedule_of` reads of a schedule with betas."""
    kinds = {kind: name for name, kind in _KINDS.items()}
    names = {ours: name for name, ours in _PREDICTS.items()}
    if schedule.kind not in kinds or predicts not in names:
        raise ValueError(f"A {schedule.kind} schedule cannot be written in this layout.")
    return {
        "_class_name": "DDIMScheduler",
        **_SCHEDULER_FIXED,
        "beta_schedule": kinds[schedule.kind],
        "prediction_type": names[predicts],
        "timestep_spacing": schedule.spacing,
        "num_train_timesteps": schedule.num_train_steps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "steps_offset": schedule.offset,
        "set_alpha_to_one": schedule.ends_clean,
    }


def _each(value: int | Sequence[int], count: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count  # type: ignore[return-value]
