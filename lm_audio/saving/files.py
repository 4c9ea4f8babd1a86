"""Reads the files of a checkpoint folder without running code."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_tokenizers.weights import read_safetensors
from lm_audio.saving.pickles import read_pickle


def folder_of(source: str | Path) -> Path:
    """The source as a folder; raises ValueError if it is not one."""
    if not Path(source).is_dir():
        raise ValueError(f"Folder {source} not found. Give the folder with the checkpoint.")
    return Path(source)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; a missing file counts as empty."""
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not valid JSON. Download it again.")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder in transformers' or diffusers' layout, in one file or in shards."""
    for name, read in (
        ("model.safetensors", read_safetensors),
        ("diffusion_pytorch_model.safetensors", read_safetensors),
        ("pytorch_model.bin", read_pickle),
        ("diffusion_pytorch_model.bin", read_pickle),
    ):
        if (folder / name).exists():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if not index.exists():
            continue
        weights: dict[str, Tensor] = {}
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if Path(shard).name != shard or not (folder / shard).exists():
                raise ValueError(
                    f"{shard}, listed in {index.name}, is missing in {folder}. Download it."
                )
            weights |= read(folder / shard)
        return weights
    raise ValueError(f"No weights found in {folder}. Expected model.safetensors.")


def stated_licence(folder: Path) -> str | None:
    """The licence in the model card, if there is one; other licences by their name."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.exists() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    stated = re.findall(r"^(license|license_name):\s*(\S+)", head[1], re.MULTILINE) if head else []
    found = {name: value.strip("'\"") for name, value in stated}
    licence = found.get("license")
    return found.get("license_name", licence) if licence == "other" else licence
