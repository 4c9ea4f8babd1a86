"""The weights of a stage's network and conditioners, in one file of its folder.

model.safetensors   the weights, named model.* and conditioners.*
text.model          the tokenizer of the text encoder trained with them, if any
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audio_tokenizers.text import SentencePieceTokenizer
from audio_tokenizers.weights import check_weights, read_safetensors
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.description import build_conditioners, text_encoders
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.text import OwnTextEncoder
from lm_audio.networks.packing import Kind, fill

_FILE = "model.safetensors"


def write_weights(
    name: str, network: nn.Module, conditioners: Conditioners, folder: Path, *, half: bool
) -> None:
    """Writes the weights and text tokenizers of a stage.

    Args:
        half: store weights as float16.
    """
    weights = _both(network, conditioners).state_dict()
    save_file(
        {key: _stored(f"{name}: {key}", weight, half) for key, weight in weights.items()},
        folder / _FILE,
    )
    for text, encoder in text_encoders(conditioners).items():
        if isinstance(encoder, OwnTextEncoder):
            encoder.tokenizer.save(folder / f"{text}.model")


def read_weights(folder: Path) -> dict[str, Tensor]:
    return read_safetensors(folder / _FILE)


def check_depth(weights: Mapping[str, Tensor], folder: Path, num_layers: int) -> None:
    """Raises ValueError if there are fewer weights than layers: building those takes forever."""
    if num_layers > len(weights):
        raise ValueError(f"{folder / _FILE} has fewer than {num_layers} layers. Download it again.")


def read_conditioners(
    description: Any, folder: Path, *, dim: int, frozen: FrozenEncoder | None
) -> Conditioners:
    """The conditioners of a description, without weights."""
    return build_conditioners(
        description,
        dim=dim,
        frozen=frozen,
        own_tokenizer=lambda name: SentencePieceTokenizer.load(folder / f"{name}.model"),
    ).eval()


def fill_weights(
    network: nn.Module,
    conditioners: Conditioners,
    weights: Mapping[str, Tensor],
    folder: Path,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    packing: Kind | None = None,
) -> None:
    """Moves weights into modules that have none, without duplicating them in memory."""
    both = _both(network, conditioners)
    check_weights(weights, both.state_dict(), source=folder / _FILE)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "conditioners": {}}
    for name, weight in weights.items():
        part, _, own = name.partition(".")
        parts[part][own] = weight
    fill(network, parts["model"].items(), device=device, dtype=dtype, packing=packing)
    fill(conditioners, parts["conditioners"].items(), device=device, dtype=dtype)
    for null in both.modules():
        if isinstance(null, Null) and null.embedding.is_meta:  # its zeros are not saved
            null.embedding = torch.zeros(null.embedding.shape, device=device, dtype=dtype)


@contextmanager
def fitting(source: Path) -> Iterator[None]:
    """Raises a one-sentence ValueError if building from a description fails."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"This version of lm-audio cannot build the model in {source}: "
            f"{type(error).__name__}: {str(error).splitlines()[0]}."
        ) from error


def _both(network: nn.Module, conditioners: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"model": network, "conditioners": conditioners})


def _stored(name: str, weight: Tensor, half: bool) -> Tensor:
    """A weight as it is written; raises ValueError if float16 cannot hold it."""
    kept = weight.detach().to("cpu", torch.float16 if half else weight.dtype).contiguous()
    if half and not kept.isfinite().all():
        raise ValueError(f"{name} has values that overflow float16. Save without half=True.")
    return kept
