"""What a family states of itself: the models that it published, and the layouts that it reads.

Nothing here takes torch: models can be listed before any is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lm_audio.model import Model
    from lm_audio.networks.packing import Kind

Ability = Literal["text", "continue", "inpaint", "voices"]

TRANSFORMERS_FILES = (
    ("*.json", "*.model", "*.txt", "model.safetensors", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model-*.bin"),  # where there are no safetensors
)
TORCH_FILES = (("*.bin", "*.pt", "*.th"),)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model that `lm_audio.load` knows by name; None where a fact is not known.

    Args:
        source: the hub id that the name stands for, or the folder in the package.
        place: whether the weights come with this package or from the hub.
        num_parameters: of the language models, without text encoder and codec.
        size: bytes of its files, without a text encoder that is a model of its own on the hub.
        abilities: what it can make sound from: a text, audio to continue, a span to fill in, with
            one of several voices.
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
        hub_id: where they came from, if not from here.
        format: the name of one of the formats in `table.py`.
    """

    folder: Path
    hub_id: str | None
    format: str


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """How a model is loaded.

    Args:
        dtype: float32, bfloat16 or float16.
        packing: of the language models' linear layers; None leaves them as they are.
        text_encoder: a folder or hub id, for layouts that lack it.
    """

    device: str
    dtype: str
    packing: "Kind | None"
    text_encoder: str | Path | None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout of files.

    Args:
        model_type: what its config.json states; None for layouts without a config.json.
        holds: whether a folder without a config.json has this layout.
        files: patterns of what is fetched from the hub, each group if those before it bring no
            safetensors.
        lacks_text_encoder: whether what reads the text comes from elsewhere.
    """

    name: str
    load: "Callable[[Checkpoint, LoadSettings], Model]"
    model_type: str | None = None
    holds: Callable[[Path], bool] | None = None
    files: tuple[tuple[str, ...], ...] = TRANSFORMERS_FILES
    lacks_text_encoder: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """What `table.py` lists."""

    models: tuple[ModelInfo, ...] = ()
    formats: tuple[Format, ...] = ()
