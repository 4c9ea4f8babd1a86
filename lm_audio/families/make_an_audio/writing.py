"""Writes a Make-An-Audio as a folder with one subfolder per part."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing_folder
from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.families.make_an_audio.prompts import PromptMap
from lm_audio.families.make_an_audio.reading import (
    MAP,
    MAP_TYPE,
    PICTURES,
    PIPELINE,
    SOUNDS,
    TEXT_ENCODER,
)
from lm_audio.families.make_an_audio.text import TextTokens
from lm_audio.saving.part_folder import link_copy, write_network
from lm_audio.saving.spectrograms import write_renderer
from lm_audio.saving.unets import schedule_settings, unet_settings

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_make_an_audio(
    parts: MakeAnAudioParts, folder: str | Path, *, source: Path | None = None
) -> None:
    """Writes a folder that `lm_audio.load` reads, whole or not at all.

    Args:
        source: the folder that the parts were read from, if they take more prompts than text. Its
            encoders of pictures and sounds are linked where possible.
    """
    if parts.prompts and source is None:
        raise ValueError("The model takes pictures or sounds. Give the folder that it is from.")
    with replacing_folder(Path(folder)) as new:
        write_network(
            new / "unet", parts.unet.state_dict(), unet_settings(parts.unet.config), file=WEIGHTS
        )
        (new / "scheduler").mkdir()
        scheduler = schedule_settings(parts.schedule, parts.predicts)
        _write(new / "scheduler" / "scheduler_config.json", scheduler)
        write_renderer(parts.renderer, new / "vae", new / "vocoder")
        write_text(new, parts.text)
        for name in (PICTURES, SOUNDS):
            if source is not None and (source / name).is_dir():
                link_copy(source / name, new / name)
        _write(new / "model_index.json", {"_class_name": PIPELINE})
        if parts.licence is not None:
            (new / "README.md").write_text(f"---\nlicense: {parts.licence}\n---\n")


def write_prompt_map(
    folder: str | Path, prompt_map: PromptMap, *, model: Path, encoder: Path, name: str
) -> None:
    """Writes a model with another prompt, whole or not at all.

    Files of the model and of the encoder are linked where possible.

    Args:
        encoder: the folder of a CLIP or CLAP.
        name: of its subfolder in the model.
    """
    with replacing_folder(Path(folder)) as new:
        for path in sorted(model.iterdir()):
            if path.name != name:
                link_copy(path, new / path.name)
        (new / name).mkdir()
        for path in sorted(encoder.iterdir()):
            if path.is_file():
                link_copy(path, new / name / path.name)
        settings = {"model_type": MAP_TYPE, **asdict(prompt_map.config)}
        weights = prompt_map.state_dict()
        write_network(new / name / MAP, weights, settings, file="model.safetensors")


def write_text(folder: Path, text: TextTokens) -> None:
    """Writes the text encoder and its tokenizer into a folder."""
    settings = {
        **text.encoder.config.to_dict(),
        "architectures": ["ClapTextEncoder"],
        "projection_dim": text.dim,
        "num_tokens": text.num_tokens,
    }
    weights = text.encoder.state_dict()
    write_network(folder / TEXT_ENCODER, weights, settings, file="model.safetensors")
    text.tokenizer.save_pretrained(folder / "tokenizer")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
