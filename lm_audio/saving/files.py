"""What lies in the folder of a checkpoint, read without running code."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from audio_tokenizers.weights import read_safetensors
from lm_audio.saving.pickles import read_pickle


def folder_of(source: str | Path) -> Path:
    """A source that must be a folder."""
    if not Path(source).is_dir():
        raise ValueError(f"There is no folder {source}; give the one in which the checkpoint lies.")
    return Path(source)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; one that is not there is empty."""
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"Could not read {path}: it is no whole JSON file, fetch it again.")
    return content


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder that transformers wrote, in one file or in shards."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        if (folder / name).exists():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if not index.exists():
            continue
        weights: dict[str, Tensor] = {}
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if Path(shard).name != shard or not (folder / shard).exists():
                raise ValueError(f"{folder} lacks {shard}, which {index.name} names; fetch it.")
            weights |= read(folder / shard)
        return weights
    raise ValueError(f"Found no weights in {folder}; expected model.safetensors in it.")


def stated_licence(folder: Path) -> str | None:
    """The licence that the model card states, if there is a card and it does."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.exists() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)", head[1], re.MULTILINE) if head else None
    return found[1].strip("'\"") if found else None
