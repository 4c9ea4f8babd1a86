"""Autoencoders of spectrograms and vocoders, in the layouts of diffusers and transformers.

An autoencoder is a folder of diffusers' AutoencoderKL, a vocoder one of transformers'
SpeechT5HifiGan, or a BigVGAN. Autoencoders that we wrote have a file more, which other libraries
ignore and one that goes with a BigVGAN needs:

spectrogram.json   how the spectrograms of an autoencoder are made, and the length of its windows
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.networks.big_vgan import BigVgan
from lm_audio.networks.hifi_gan import HifiGan, HifiGanConfig
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.log_mel import LogMel, usual_log_mel
from lm_audio.saving.big_vgan import (
    MODEL_TYPE,
    big_vgan_config,
    big_vgan_settings,
    without_filters,
)
from lm_audio.saving.files import folder_of, read_json
from lm_audio.saving.part_folder import Config, check_fixed, read_network, write_network

USUAL_WINDOW = 256
"""Latent frames of a window, 10.24 s at the usual rate, if the autoencoder states none."""
SCALE = 0.18215
"""Of latents, if the autoencoder does not state it."""
_SPECTROGRAM = "spectrogram.json"
_DOWN = ("AttnDownEncoderBlock2D", "DownEncoderBlock2D")
_UP = ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")
_AUTOENCODER_FIXED: Config = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}


def overlap_of(window_frames: int) -> int:
    """The frames of a window that are cross-faded with the one before."""
    return window_frames // 8


def read_renderer(
    autoencoder: Path,
    vocoder: Path,
    *,
    window_frames: int = USUAL_WINDOW,
    mapped: bool = False,
    dtype: torch.dtype = torch.float32,
) -> LatentRenderer:
    """The renderer of an autoencoder's folder and a vocoder's.

    Args:
        window_frames: of the autoencoder, unless its folder states them.
        mapped, dtype: as for `read_network`.
    """
    given: dict[str, Any] = {"mapped": mapped, "dtype": dtype}
    for folder in (autoencoder, vocoder):
        folder_of(folder)
    network, _ = read_network(
        autoencoder, Autoencoder2d, autoencoder_config, rename=current_names, **given
    )
    voice = _read_vocoder(vocoder, **given)
    stated = read_json(autoencoder / _SPECTROGRAM)
    try:
        made = LogMel(**stated["log_mel"]) if stated else None
        window_frames = int(stated["window_frames"]) if stated else window_frames
        mel_first = bool(stated.get("mel_first", False))
    except (LookupError, TypeError, ValueError):
        path = autoencoder / _SPECTROGRAM
        raise ValueError(f"{path} is damaged. Write the autoencoder again.") from None
    log_mel = log_mel_of(voice.config) if isinstance(voice, HifiGan) else made
    if log_mel is None:
        raise ValueError(f"{autoencoder / _SPECTROGRAM} is missing. Download the whole model.")
    if made not in (None, log_mel):
        raise ValueError(
            f"The autoencoder in {autoencoder} has spectrograms of {_described(made)}, but the "
            f"vocoder in {vocoder} takes {_described(log_mel)}. Train them with the same settings."
        )
    try:
        return LatentRenderer(
            autoencoder=network,
            vocoder=voice,
            scale=read_json(autoencoder / "config.json").get("scaling_factor", SCALE),
            window_frames=window_frames,
            overlap_frames=overlap_of(window_frames),
            log_mel=log_mel,
            mel_first=mel_first,
        )
    except ValueError as error:
        raise ValueError(
            f"The autoencoder in {autoencoder} and the vocoder in {vocoder} do not match: {error}"
        ) from error


def write_renderer(renderer: LatentRenderer, autoencoder: Path, vocoder: Path) -> None:
    """Writes what `read_renderer` reads; raises ValueError for a renderer that it would change."""
    check_storable(renderer)
    assert isinstance(renderer.autoencoder, Autoencoder2d)
    assert renderer.log_mel is not None
    assert isinstance(renderer.vocoder, HifiGan | BigVgan)
    write_autoencoder(
        autoencoder,
        renderer.autoencoder,
        scale=renderer.scale,
        log_mel=renderer.log_mel,
        window_frames=renderer.window_frames,
        mel_first=renderer.mel_first,
    )
    write_vocoder(vocoder, renderer.vocoder)


def check_storable(renderer: LatentRenderer) -> None:
    """Raises ValueError for a renderer that `write_renderer` cannot write."""
    first, voice = renderer.autoencoder, renderer.vocoder
    if not isinstance(first, Autoencoder2d) or not isinstance(voice, HifiGan | BigVgan):
        raise ValueError(
            "Only a LatentRenderer of an Autoencoder2d and a HifiGan or BigVgan can be saved, got "
            f"a {type(first).__name__} and a {type(voice).__name__}."
        )
    log_mel = log_mel_of(voice.config) if isinstance(voice, HifiGan) else renderer.log_mel
    usual = log_mel, overlap_of(renderer.window_frames)
    if log_mel is None or (renderer.log_mel, renderer.overlap_frames) != usual:
        raise ValueError(
            "Only a LatentRenderer with its vocoder's spectrograms and windows that overlap by an "
            "eighth can be saved."
        )


def _read_vocoder(folder: Path, **given: Any) -> HifiGan | BigVgan:
    """Its config tells its kind."""
    if read_json(folder / "config.json").get("model_type") != MODEL_TYPE:
        return read_network(folder, HifiGan, vocoder_config, rename=without_weight_norm, **given)[0]

    def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return without_weight_norm(without_filters(weights))

    return read_network(folder, BigVgan, big_vgan_config, rename=rename, **given)[0]


def write_autoencoder(
    folder: Path,
    autoencoder: Autoencoder2d,
    *,
    scale: float,
    log_mel: LogMel,
    window_frames: int,
    mel_first: bool = False,
) -> None:
    """Writes an autoencoder atomically.

    Args:
        scale: latents are multiplied by it.
        window_frames: latent frames that it sees at once.
        mel_first: its images are [1, 1, M, T] instead of [1, 1, T, M].
    """
    shape = autoencoder.config
    config = {
        **_autoencoder_settings(shape),
        "sample_size": window_frames * shape.factor,
        "scaling_factor": scale,
    }
    stated = {"log_mel": asdict(log_mel), "window_frames": window_frames}
    write_network(
        folder,
        autoencoder.state_dict(),
        config,
        file="diffusion_pytorch_model.safetensors",
        others={_SPECTROGRAM: stated | ({"mel_first": True} if mel_first else {})},
    )


def write_vocoder(folder: Path, vocoder: HifiGan | BigVgan) -> None:
    """Writes a vocoder atomically; weight normalisation is joined with its weights."""
    if isinstance(vocoder, BigVgan):
        config = big_vgan_settings(vocoder.config)
    else:
        config = _hifi_gan_settings(vocoder.config)
    weights = without_weight_norm(vocoder.state_dict())
    write_network(folder, weights, config, file="model.safetensors")


def _hifi_gan_settings(shape: HifiGanConfig) -> dict[str, Any]:
    return {
        "architectures": ["SpeechT5HifiGan"],
        "model_type": "speecht5_hifigan",
        "model_in_dim": shape.num_mels,
        "sampling_rate": shape.sample_rate,
        "upsample_initial_channel": shape.width,
        "upsample_rates": shape.rates,
        "upsample_kernel_sizes": shape.kernels,
        "resblock_kernel_sizes": shape.block_kernels,
        "resblock_dilation_sizes": shape.block_dilations,
        "leaky_relu_slope": shape.slope,
        "normalize_before": shape.normalize,
    }


def log_mel_of(vocoder: HifiGanConfig) -> LogMel:
    """The spectrograms that a vocoder takes."""
    return usual_log_mel(
        sample_rate=vocoder.sample_rate,
        hop_length=vocoder.hop_length,
        num_mels=vocoder.num_mels,
    )


def autoencoder_config(config: Config) -> Autoencoder2dConfig:
    """Of AutoencoderKL."""
    check_fixed(config, _AUTOENCODER_FIXED)
    if config["in_channels"] != config["out_channels"]:
        raise ValueError("in_channels and out_channels differ.")
    down, up = config["down_block_types"], config["up_block_types"]
    attends = [attending(x, *_DOWN) for x in down]
    if attends != [attending(x, *_UP) for x in up][::-1]:
        raise ValueError(f"The blocks {list(down)} and {list(up)} do not mirror each other.")
    return Autoencoder2dConfig(
        channels=config["in_channels"],
        latent_channels=config["latent_channels"],
        widths=tuple(config["block_out_channels"]),
        num_blocks=config.get("layers_per_block", 1),
        attends=tuple(attends),
        num_groups=config.get("norm_num_groups", 32),
        middle_attention=config.get("mid_block_add_attention", True),
        quant_conv=config.get("use_quant_conv", True),
        post_quant_conv=config.get("use_post_quant_conv", True),
    )


def vocoder_config(config: Config) -> HifiGanConfig:
    """Of SpeechT5HifiGan."""
    return HifiGanConfig(
        num_mels=config["model_in_dim"],
        sample_rate=config["sampling_rate"],
        width=config["upsample_initial_channel"],
        rates=tuple(config["upsample_rates"]),
        kernels=tuple(config["upsample_kernel_sizes"]),
        block_kernels=tuple(config["resblock_kernel_sizes"]),
        block_dilations=tuple(tuple(x) for x in config["resblock_dilation_sizes"]),
        slope=config.get("leaky_relu_slope", 0.1),
        normalize=config.get("normalize_before", True),
    )


def attending(name: str, yes: str, no: str) -> bool:
    """Whether a block attends, by its name."""
    if name not in (yes, no):
        raise ValueError(f"Unknown block {name!r}. Expected {yes} or {no}.")
    return name == yes


def without_weight_norm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Joins the direction and the length of each weight, if they are stored apart."""
    made = dict(weights)
    for length, direction in (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ):
        for name in [name for name in made if name.endswith(f".{length}")]:
            prefix = name.removesuffix(length)
            if prefix + direction in made:
                v, g = made.pop(prefix + direction), made.pop(name)
                made[f"{prefix}weight"] = torch._weight_norm(v, g, 0)
    return made


def current_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old files of AutoencoderKL name the parts of its attention otherwise, and store convolutions.

    The shortcut of residual blocks stays a 1x1 convolution.
    """
    parts = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    renamed = {}
    for name, weight in weights.items():
        for old, new in parts.items():
            name = name.replace(f".{old}.", f".{new}.")
        is_linear = any(f".{new}." in name for new in parts.values())
        renamed[name] = weight.flatten(1) if is_linear and weight.dim() == 4 else weight
    return renamed


def _autoencoder_settings(shape: Autoencoder2dConfig) -> dict[str, Any]:
    if shape.head_width is not None:
        raise ValueError("An autoencoder with several heads cannot be written in this layout.")
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "in_channels": shape.channels,
        "out_channels": shape.channels,
        "latent_channels": shape.latent_channels,
        "block_out_channels": shape.widths,
        "layers_per_block": shape.num_blocks,
        "down_block_types": [_DOWN[not attends] for attends in shape.attends],
        "up_block_types": [_UP[not attends] for attends in shape.attends[::-1]],
        "norm_num_groups": shape.num_groups,
        "mid_block_add_attention": shape.middle_attention,
        "use_quant_conv": shape.quant_conv,
        "use_post_quant_conv": shape.post_quant_conv,
    }


def _described(mel: LogMel) -> str:
    return f"{mel.num_mels} bands at {mel.sample_rate} Hz with a hop of {mel.hop_length} samples"
