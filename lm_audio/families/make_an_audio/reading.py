"""Reads Make-An-Audio from a folder with one subfolder per part, as diffusers' pipelines have.

No pipeline of diffusers is this model; `writing.py` writes such folders.
"""

from pathlib import Path
from typing import Any

import torch

from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.families.make_an_audio.text import NUM_TOKENS, ClapTextEncoder, TextTokens
from lm_audio.networks.unet2d import UNet2d
from lm_audio.saving.files import folder_of, stated_licence
from lm_audio.saving.part_folder import Config, check_fixed, read_config, read_network
from lm_audio.saving.spectrograms import read_renderer
from lm_audio.saving.text_models import load_tokenizer
from lm_audio.saving.unets import schedule_of, unet_config

PIPELINE = "MakeAnAudioPipeline"
"""The name in model_index.json."""


def read_make_an_audio(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MakeAnAudioParts:
    """Reads a folder; `dtype` is that of the U-Net.

    On a CPU the files are mapped: in float32, weights occupy memory only while they are used.
    """
    folder = folder_of(source)
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    given: dict[str, Any] = {"mapped": mapped, "dtype": dtype}
    unet, _ = read_network(folder / "unet", UNet2d, unet_config, **given)
    schedule, predicts = read_config(folder / "scheduler" / "scheduler_config.json", schedule_of)
    encoder, release = read_network(
        folder / "text_encoder", lambda x: ClapTextEncoder(*x), text_config, mapped=mapped
    )
    most = read_config(folder / "text_encoder" / "config.json", _num_tokens)
    tokenizer = load_tokenizer(folder / "tokenizer")
    try:
        parts = MakeAnAudioParts(
            unet=unet,
            predicts=predicts,
            schedule=schedule,
            renderer=read_renderer(folder / "vae", folder / "vocoder", **given),
            text=TextTokens(encoder, tokenizer, num_tokens=most, release=release),
            licence=stated_licence(folder),
        )
    except ValueError as error:
        raise ValueError(f"The parts of {folder} do not match: {error}") from error
    return parts if mapped and dtype == torch.float32 else parts.to(device, dtype)


def text_config(config: Config) -> tuple[Any, int]:
    """Of BERT, and the width of the projection."""
    from transformers import BertConfig

    check_fixed(config, {"model_type": "bert"})
    known = {name: config[name] for name in BertConfig().to_dict() if name in config}
    return BertConfig(**known), int(config["projection_dim"])


def _num_tokens(config: Config) -> int:
    return int(config.get("num_tokens", NUM_TOKENS))
