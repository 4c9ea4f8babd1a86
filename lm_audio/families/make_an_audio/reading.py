"""Reads Make-An-Audio from a folder with one subfolder per part, as diffusers' pipelines have.

No pipeline of diffusers is this model; `writing.py` writes such folders.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from lm_audio.conditioners.joint_spaces import PictureSpace, SoundSpace
from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.families.make_an_audio.prompts import (
    AUDIO,
    IMAGE,
    VIDEO,
    Film,
    Picture,
    Prompt,
    PromptMap,
    PromptMapConfig,
    Sound,
)
from lm_audio.families.make_an_audio.text import NUM_TOKENS, ClapTextEncoder, TextTokens
from lm_audio.networks.unet2d import UNet2d
from lm_audio.saving.files import folder_of, read_json, stated_licence
from lm_audio.saving.part_folder import Config, check_fixed, read_config, read_network
from lm_audio.saving.spectrograms import read_renderer
from lm_audio.saving.text_models import load_text_model, load_tokenizer
from lm_audio.saving.unets import schedule_of, unet_config

PIPELINE = "MakeAnAudioPipeline"
"""The name in model_index.json."""
TEXT_ENCODER = "text_encoder"
PICTURES, SOUNDS, MAP = "image_encoder", "audio_encoder", "prompt_map"
"""The subfolders of a CLIP and a CLAP, and the folder inside of each with its map."""
MAP_TYPE = "lm-audio-prompt-map"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


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
    try:
        parts = MakeAnAudioParts(
            unet=unet,
            predicts=predicts,
            schedule=schedule,
            renderer=read_renderer(folder / "vae", folder / "vocoder", **given),
            text=read_text(folder, mapped=mapped),
            prompts=read_prompts(folder),
            licence=stated_licence(folder),
        )
    except ValueError as error:
        raise ValueError(f"The parts of {folder} do not match: {error}") from error
    return parts if mapped and dtype == torch.float32 else parts.to(device, dtype)


def read_text(folder: Path, *, mapped: bool = False) -> TextTokens:
    """The text encoder of a folder, with its tokenizer."""
    encoder, release = read_network(
        folder / TEXT_ENCODER, lambda x: ClapTextEncoder(*x), text_config, mapped=mapped
    )
    most = read_config(folder / TEXT_ENCODER / "config.json", _num_tokens)
    tokenizer = load_tokenizer(folder / "tokenizer")
    return TextTokens(encoder, tokenizer, num_tokens=most, release=release)


def read_prompts(folder: Path) -> dict[str, Prompt]:
    """The prompts other than text that a folder has the parts for."""
    found: dict[str, Prompt] = {}
    if (folder / PICTURES / MAP).is_dir():
        space, prompt_map = read_picture_space(folder / PICTURES), read_map(folder / PICTURES / MAP)
        check_map(prompt_map, space.dim, folder / PICTURES)
        found |= {IMAGE: Picture(space, prompt_map), VIDEO: Film(space, prompt_map)}
    if (folder / SOUNDS / MAP).is_dir():
        sounds, prompt_map = read_sound_space(folder / SOUNDS), read_map(folder / SOUNDS / MAP)
        check_map(prompt_map, sounds.dim, folder / SOUNDS)
        found[AUDIO] = Sound(sounds, prompt_map)
    return found


def read_picture_space(folder: Path) -> PictureSpace:
    """A CLIP in transformers' layout."""
    from transformers import CLIPModel

    config = read_json(folder / "preprocessor_config.json")
    model = load_text_model(CLIPModel, folder, kind="clip")
    return PictureSpace(
        model,
        load_tokenizer(folder),
        size=model.config.vision_config.image_size,
        mean=config.get("image_mean", CLIP_MEAN),
        deviation=config.get("image_std", CLIP_DEVIATION),
    )


def read_sound_space(folder: Path) -> SoundSpace:
    """A CLAP in transformers' layout."""
    from transformers import ClapFeatureExtractor, ClapModel

    model = load_text_model(ClapModel, folder, kind="clap")
    try:
        extractor = ClapFeatureExtractor.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as error:
        path = folder / "preprocessor_config.json"
        raise ValueError(f"{path} is missing or damaged. Download the whole model.") from error
    return SoundSpace(model, extractor, load_tokenizer(folder))


def read_map(folder: Path) -> PromptMap:
    """A map that recipes/train_prompt_map.py wrote."""

    def config(given: Config) -> PromptMapConfig:
        check_fixed(given, {"model_type": MAP_TYPE})
        names = [one.name for one in fields(PromptMapConfig)]
        return PromptMapConfig(**{name: given[name] for name in names})

    return read_network(folder, PromptMap, config)[0]


def check_map(prompt_map: PromptMap, dim: int, folder: Path) -> None:
    if prompt_map.config.in_width != dim:
        raise ValueError(
            f"The map in {folder} takes vectors of width {prompt_map.config.in_width}, and the "
            f"encoder makes {dim}."
        )


def text_config(config: Config) -> tuple[Any, int]:
    """Of BERT, and the width of the projection."""
    from transformers import BertConfig

    check_fixed(config, {"model_type": "bert"})
    known = {name: config[name] for name in BertConfig().to_dict() if name in config}
    return BertConfig(**known), int(config["projection_dim"])


def _num_tokens(config: Config) -> int:
    return int(config.get("num_tokens", NUM_TOKENS))
