"""The description of a family: its published models, and the layouts that it reads.

Does not import torch, so models can be listed quickly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lm_audio.model import Model
    from lm_audio.networks.packing import Kind

Ability = Literal["text", "continue", "inpaint", "vary", "loop", "melody", "best of", "voices"]

TRANSFORMERS_FILES = (
    ("*.json", "*.model", "*.txt", "model.safetensors", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin"),  # without safetensors
)
DIFFUSERS_FILES = (
    (
        "*.json", "*.model", "*.txt", "*/model.safetensors",
        "*/diffusion_pytorch_model.safetensors",
    ),
    ("*/pytorch_model.bin", "*/diffusion_pytorch_model.bin"),  # without safetensors
)  # fmt: skip
TORCH_FILES = (("*.bin", "*.pt", "*.th"),)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that `lm_audio.load` accepts by name; None means unknown.

    Args:
        source: the hub id of the model, or its folder in the package.
        place: whether the weights come with this package or from the hub.
        num_parameters: of the language models, without text encoder and codec.
        size: of its files in bytes, without a text encoder from a repository of its own.
        abilities: text prompts, audio continuation, inpainting, variations of audio, loops,
            melodies, a judge of takes, voices.
    """

    name: str
    source: str
    place: Literal["package", "hub"] = "hub"
    num_parameters: int | None = None
    size: int | None = None
    licence: str
    sample_rate: int
    num_channels: int
    abilities: tuple[Ability, ...]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The files of a model on this machine.

    Args:
        hub_id: the source of the files, if downloaded.
        format: the name of a format in `table.py`.
    """

    folder: Path
    hub_id: str | None
    format: str


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """Settings for loading a model.

    Args:
        dtype: float32, bfloat16 or float16.
        packing: of the language models' linear layers; None disables packing.
        text_encoder: a folder or hub id, for layouts without one.
    """

    device: str
    dtype: str
    packing: "Kind | None"
    text_encoder: str | Path | None


def _same(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    return weights


@dataclass(frozen=True, kw_only=True)
class NetworkFiles:
    """Where a layout has the weights of its denoising network, so that they can be replaced.

    Args:
        folder: the subfolder.
        names: maps stored weights to ours; where a stored one has several of ours, these are views.
    """

    folder: str
    names: Callable[[Mapping[str, Any]], Mapping[str, Any]] = _same


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout of files.

    Args:
        model_type: the model_type in config.json; None for layouts without a config.json.
        pipelines: the classes in model_index.json, for diffusers' layout.
        holds: whether a folder without a config.json has this layout.
        files: groups of patterns to download from the hub; a group is used only if those before it
            match no safetensors.
        lacks_text_encoder: whether the text encoder comes from elsewhere.
        network: None for layouts whose network cannot be replaced.
    """

    name: str
    load: "Callable[[Checkpoint, LoadSettings], Model]"
    model_type: str | None = None
    pipelines: tuple[str, ...] = ()
    holds: Callable[[Path], bool] | None = None
    files: tuple[tuple[str, ...], ...] = TRANSFORMERS_FILES
    lacks_text_encoder: bool = False
    network: NetworkFiles | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """An entry of `table.py`."""

    models: tuple[ModelInfo, ...] = ()
    formats: tuple[Format, ...] = ()
