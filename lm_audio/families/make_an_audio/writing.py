"""Writes a Make-An-Audio as a folder with one subfolder per part."""

import json
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing_folder
from lm_audio.families.make_an_audio.parts import MakeAnAudioParts
from lm_audio.families.make_an_audio.reading import PIPELINE
from lm_audio.families.make_an_audio.text import TextTokens
from lm_audio.saving.part_folder import write_network
from lm_audio.saving.spectrograms import write_renderer
from lm_audio.saving.unets import schedule_settings, unet_settings

WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_make_an_audio(parts: MakeAnAudioParts, folder: str | Path) -> None:
    """Writes a folder that `lm_audio.load` reads, whole or not at all."""
    with replacing_folder(Path(folder)) as new:
        write_network(
            new / "unet", parts.unet.state_dict(), unet_settings(parts.unet.config), file=WEIGHTS
        )
        (new / "scheduler").mkdir()
        scheduler = schedule_settings(parts.schedule, parts.predicts)
        _write(new / "scheduler" / "scheduler_config.json", scheduler)
        write_renderer(parts.renderer, new / "vae", new / "vocoder")
        _write_text(new, parts.text)
        _write(new / "model_index.json", {"_class_name": PIPELINE})
        if parts.licence is not None:
            (new / "README.md").write_text(f"---\nlicense: {parts.licence}\n---\n")


def _write_text(folder: Path, text: TextTokens) -> None:
    settings = {
        **text.encoder.config.to_dict(),
        "architectures": ["ClapTextEncoder"],
        "projection_dim": text.dim,
        "num_tokens": text.num_tokens,
    }
    weights = text.encoder.state_dict()
    write_network(folder / "text_encoder", weights, settings, file="model.safetensors")
    text.tokenizer.save_pretrained(folder / "tokenizer")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
