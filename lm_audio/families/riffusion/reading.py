"""Reads Riffusion in diffusers' layout, that of Stable Diffusion 1.

The traced U-Net, the safety checker and the feature extractor are never read. A folder may have a
file more, which other libraries ignore:

spectrogram_image.json   how the images are made, if not as Riffusion's
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.spectrogram_image import ImageSettings
from lm_audio.families.riffusion.stages import RiffusionParts
from lm_audio.families.riffusion.text import ClipText
from lm_audio.networks.autoencoder2d import Autoencoder2d
from lm_audio.networks.unet2d import UNet2d
from lm_audio.renderers.image_latents import ImageRenderer
from lm_audio.saving.files import folder_of, read_json, stated_licence
from lm_audio.saving.part_folder import read_config, read_network
from lm_audio.saving.spectrograms import SCALE, autoencoder_config, current_names, overlap_of
from lm_audio.saving.text_models import load_tokenizer, read_clip_text, token_limit
from lm_audio.saving.unets import schedule_of, unet_config

PIPELINE = "StableDiffusionPipeline"
"""The name of the pipeline in model_index.json."""
IMAGE = "spectrogram_image.json"


def read_riffusion(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    hub_id: str | None = None,
) -> RiffusionParts:
    """Reads a folder; `dtype` is that of the U-Net.

    On a CPU weights of both networks are mapped: they occupy memory only while they are used.

    Args:
        hub_id: where the folder comes from, if not from this machine.
    """
    folder = folder_of(source)
    pipeline = read_json(folder / "model_index.json").get("_class_name")
    if pipeline != PIPELINE:
        raise ValueError(
            f"Expected {PIPELINE} in the model_index.json of {folder}, got {pipeline}."
        )
    _check_origin(folder, hub_id)
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    given: dict[str, Any] = {"mapped": mapped, "dtype": dtype}
    unet, _ = read_network(folder / "unet", UNet2d, unet_config, **given)
    autoencoder, _ = read_network(
        folder / "vae", Autoencoder2d, autoencoder_config, rename=current_names, **given
    )
    schedule, predicts = read_config(folder / "scheduler" / "scheduler_config.json", schedule_of)
    image = _image_settings(folder)
    window = _window(folder, image, autoencoder)
    text = _text(folder)
    _check(unet, autoencoder, text, folder)
    parts = RiffusionParts(
        unet=unet,
        predicts=predicts,
        schedule=schedule,
        window_frames=window,
        renderer=ImageRenderer(
            autoencoder=autoencoder,
            image=image,
            scale=read_json(folder / "vae" / "config.json").get("scaling_factor", SCALE),
            window_frames=window,
            overlap_frames=overlap_of(window),
        ),
        text=text,
        licence=stated_licence(folder),
    )
    return parts if mapped and dtype == torch.float32 else parts.to(device, dtype)


def _check_origin(folder: Path, hub_id: str | None) -> None:
    """Warns unless something says that the images of a Stable Diffusion are spectrograms."""
    card = folder / "README.md"
    known = f"{hub_id or folder.name} {card.read_text(errors='replace') if card.exists() else ''}"
    if not (folder / IMAGE).exists() and not re.search("riffusion|spectrogram", known, re.I):
        warnings.warn(
            f"{hub_id or folder} is a Stable Diffusion, whose images are heard as spectrograms. "
            "Unless it was trained on Riffusion's, they are noise.",
            stacklevel=2,
        )


def _image_settings(folder: Path) -> ImageSettings:
    stated = read_json(folder / IMAGE)
    try:
        return ImageSettings(**stated)
    except TypeError:
        raise ValueError(f"{folder / IMAGE} is damaged. Write the model again.") from None
    except ValueError as error:
        raise ValueError(f"{folder / IMAGE} is not supported: {error}") from None


def _window(folder: Path, image: ImageSettings, autoencoder: Autoencoder2d) -> int:
    """The latent frames of a window: the width of the U-Net's images, whose height must fit."""
    size = read_json(folder / "unet" / "config.json").get("sample_size", 64)
    height, width = size if isinstance(size, list) else (size, size)
    if height * autoencoder.config.factor != image.num_mels:
        raise ValueError(
            f"The unet in {folder} makes images of {height * autoencoder.config.factor} rows; "
            f"expected {image.num_mels} mel bands."
        )
    return int(width)


def _text(folder: Path) -> ClipText:
    tokenizer = load_tokenizer(folder / "tokenizer")
    model = read_clip_text(folder / "text_encoder")
    length = min(token_limit(tokenizer), model.config.max_position_embeddings)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer in {folder} has no padding. Download the whole model.")
    return ClipText(model, tokenizer, length=length)


def _check(unet: UNet2d, autoencoder: Autoencoder2d, text: ClipText, folder: Path) -> None:
    """Raises ValueError if the parts do not fit each other."""
    shape, channels = unet.config, autoencoder.config.latent_channels
    wrong = []
    if shape.in_channels != channels or shape.out_channels != channels:
        wrong.append(f"the unet takes {shape.in_channels} channels and the vae makes {channels}")
    for level in (*shape.attends, shape.middle):
        for one in level:
            if one.width != text.dim:
                wrong.append(f"the unet attends to width {one.width}, CLIP makes {text.dim}")
    if wrong:
        raise ValueError(f"The parts of {folder} do not match: {'; '.join(dict.fromkeys(wrong))}.")
