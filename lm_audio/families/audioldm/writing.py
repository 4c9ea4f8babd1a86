"""Writes an AudioLDM 2 with another language of audio, in diffusers' layout."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing_folder
from lm_audio.families.audioldm.audio_language import AudioLanguage
from lm_audio.families.audioldm.reading import AUDIO_ENCODER
from lm_audio.saving.part_folder import link_copy, read_config
from lm_audio.saving.unets import unet_config

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "feature_extractor")
SOUND_PARTS = ("unet", "scheduler", "vae", "vocoder", "model_index.json", "README.md")
ENCODER_FILES = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors",
    "pytorch_model.bin",
)  # fmt: skip


def write_language(
    folder: str | Path, language: AudioLanguage, *, model: Path, encoder: Path
) -> None:
    """Writes a folder with this language, the encoder, and the parts of a model that fit them.

    Files of `model` are linked where possible. `lm_audio.load` reads the folder if its U-Net fits.

    Args:
        model: the folder of an AudioLDM 2, or of its text encoders alone.
        encoder: the folder of what makes the language of audio from sound.
    """
    parts = TEXT_PARTS + (SOUND_PARTS if reads_width(model, language.gpt2.config.dim) else ())
    with replacing_folder(Path(folder)) as new:
        for name in parts:
            if (model / name).exists():
                link_copy(model / name, new / name)
        for pattern in ENCODER_FILES:
            for path in encoder.glob(pattern):
                link_copy(path, new / AUDIO_ENCODER / path.name)
        _write_gpt2(new / "language_model", language)
        _write_projection(new / "projection_model", language)


def reads_width(model: Path, width: int) -> bool:
    """Whether a folder has a U-Net that reads a language of audio of this width."""
    if not (model / "unet" / "config.json").is_file():
        return False
    config = read_config(model / "unet" / "config.json", unet_config)
    every = [one for level in (*config.attends, config.middle) for one in level]
    return {one.width for one in every if one.context == 0 and one.width is not None} == {width}


def _write_gpt2(folder: Path, language: AudioLanguage) -> None:
    config = language.gpt2.config
    settings = {
        "architectures": ["GPT2Model"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.eps,
        "n_embd": config.dim,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim,
        "n_layer": config.num_layers,
        "n_positions": config.num_positions,
        "max_new_tokens": language.num_vectors,
        "vocab_size": 1,  # transformers needs a table of tokens, which the loop does not use
    }
    unused = {"wte.weight": torch.zeros(1, config.dim)}
    _write(folder, settings, _weights(language.gpt2) | unused, name="model.safetensors")


def _write_projection(folder: Path, language: AudioLanguage) -> None:
    config = language.projection.config
    settings = {
        "_class_name": "AudioLDM2ProjectionModel",
        "langauge_model_dim": config.dim,  # spelled like this in diffusers
        "max_seq_length": config.num_positions or None,
        "text_encoder_1_dim": config.second,
        "text_encoder_dim": config.first,
        "use_learned_position_embedding": True if config.num_positions else None,
    }
    weights = _weights(language.projection)
    _write(folder, settings, weights, name="diffusion_pytorch_model.safetensors")


def _write(folder: Path, settings: dict[str, Any], weights: dict[str, Tensor], name: str) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    save_file(weights, folder / name, metadata={"format": "pt"})


def _weights(module: nn.Module) -> dict[str, Tensor]:
    state = module.state_dict()
    return {name: weight.detach().cpu().float().contiguous() for name, weight in state.items()}
