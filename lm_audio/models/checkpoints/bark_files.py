"""Finds and reads the files of a checkpoint of Bark, in a folder or on the hub, running no code."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_tokenizers.weights import read_safetensors

# The original's files hold their validation loss as a NumPy scalar, written by NumPy 1 or 2.
_NUMPY_SCALARS: list[Any] = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
]


def find_file(source: str | Path, name: str) -> Path | None:
    """The local copy of a file of a folder or hub repository, fetched if need be."""
    if Path(source).exists():
        path = Path(source) / name
        return path if path.is_file() else None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        return None
    from transformers.utils.hub import cached_file

    try:
        found = cached_file(str(source), name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):  # no such repository, no connection, or no valid id
        return None
    return None if found is None else Path(found)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"Could not read {path}: it is no whole JSON file, fetch it again.")
    return content


def read_weights(source: str | Path) -> dict[str, Tensor]:
    """All weights of a transformers checkpoint, in one file or in shards."""
    for name, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", read_pickle)):
        if (file := find_file(source, name)) is not None:
            return read(file)
        if (index := find_file(source, f"{name}.index.json")) is None:
            continue
        weights: dict[str, Tensor] = {}
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            file = find_file(source, shard) if Path(shard).name == shard else None
            if file is None:
                raise ValueError(f"{source} lacks {shard}, which {index.name} names; fetch it.")
            weights |= read(file)
        return weights
    raise ValueError(f"Found no weights in {source}; expected model.safetensors in it.")


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a PyTorch file of tensors, plain containers and NumPy scalars; others are refused."""
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            package = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Refused to read {path}: it is damaged, or holds more than tensors and plain values, "
            "which could run code; fetch it again from where it was published."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Could not read {path}: it is no complete PyTorch file, fetch it again."
        ) from error
    if not isinstance(package, dict):
        raise ValueError(f"Got a {type(package).__name__} in {path}; expected a dict of weights.")
    return package


def is_torch_file(path: Path) -> bool:
    """Whether a file is, by its content or its ending, one that `torch.save` wrote."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    return path.suffix in (".pt", ".pth")
