"""Reads and writes a network of ours as a folder in diffusers' or transformers' layout."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.atomic import replacing_folder
from audio_tokenizers.weights import MappedFile, check_weights, unfilled
from lm_audio.saving.files import read_json, read_weights

Config = Mapping[str, Any]
Made = TypeVar("Made")
Module = TypeVar("Module", bound=nn.Module)
Rename = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Release = Callable[[], None]


def nothing() -> None:
    """Releases nothing."""


def read_config(path: Path, make: Callable[[Config], Made]) -> Made:
    """Makes something of a config file; a missing or impossible setting is named."""
    config = read_json(path)
    if not config:
        raise ValueError(f"{path} is missing. Download the whole model.")
    try:
        return make(config)
    except KeyError as error:
        raise ValueError(f"{path} has no {error.args[0]}.") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is not supported: {' '.join(str(error).split())}") from error


def check_fixed(config: Config, fixed: Config) -> None:
    """Raises ValueError if a setting that our networks lack would change the result."""
    for name, expected in fixed.items():
        if (value := config.get(name, expected)) != expected:
            raise ValueError(f"{name} is {value!r}; expected {expected!r}.")


def read_network(
    folder: Path,
    kind: Callable[[Any], Module],
    config: Callable[[Config], Any],
    *,
    rename: Rename = lambda weights: weights,
    mapped: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Module, Release]:
    """A network with the settings and weights of a folder, and what releases its memory.

    Args:
        mapped: map safetensors into memory instead of reading them.
        dtype: of mapped weights; others stay in float32.
    """

    def build(settings: Config) -> Module:
        with unfilled():
            return kind(config(settings))

    module = read_config(folder / "config.json", build)
    stored, release = weights_of(folder, mapped=mapped)
    fill(module, rename(dict(stored)), source=folder)
    if mapped:
        convert_mapped(module, dtype, release)
    return module, release


def fill(module: nn.Module, weights: Mapping[str, Tensor], *, source: Path) -> None:
    """Gives an unfilled module its weights, in float32, and makes it ready for use."""
    check_weights(weights, module.state_dict(), source=source)
    filled = {name: weight.float() for name, weight in weights.items()}
    module.load_state_dict(filled, assign=True)
    module.eval().requires_grad_(False)


def convert_mapped(module: nn.Module, dtype: torch.dtype, release: Release) -> None:
    """Changes the precision of mapped weights.

    What changes is copied, a layer at a time, and the original released.
    """
    for layer in module.modules():
        if not any(layer.children()):
            layer.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            release()
    module.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    release()


def write_network(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    *,
    file: str,
    others: Mapping[str, Any] | None = None,
) -> None:
    """Writes weights and config.json atomically.

    Args:
        file: the name of the weights' file.
        others: the content of further JSON files by their names.
    """
    with replacing_folder(folder) as new:
        plain = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        save_file(plain, new / file, metadata={"format": "pt"})
        for name, content in {"config.json": config, **(others or {})}.items():
            (new / name).write_text(json.dumps(content, indent=2) + "\n")


def weights_of(folder: Path, *, mapped: bool) -> tuple[Mapping[str, Tensor], Release]:
    """The weights of a folder, and what releases the memory of mapped ones."""
    for name in ("model.safetensors", "diffusion_pytorch_model.safetensors"):
        if mapped and (folder / name).is_file():
            file = MappedFile(folder / name)
            return file.tensors, file.release
    return read_weights(folder), nothing


def link_copy(source: Path, target: Path) -> None:
    """Copies a file or a folder; files on the same disk are hard links, as weights are large."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    _link(source, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
