"""Low-rank adapters: a few weights beside the linear layers of a model, trained in their stead.

Those of peft (arXiv 2106.09685), put into a model of ours, and taken in by its own weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from audio_tokenizers.atomic import replacing_folder
from lm_audio.networks.token_lm import TokenLM

TARGETS = r"transformer\.blocks\.\d+\.(attention|cross_attention|feed_forward)\.\w+"
"""The names of the linear layers that get adapters."""

_NAME = "default"  # of the only adapter, as peft calls it


def add_adapters(model: TokenLM, *, rank: int, alpha: float) -> None:
    """Puts adapters beside all attention and feed-forward layers; nothing else stays trainable.

    At first they add nothing: one factor of each is zero, the other is drawn.

    Args:
        alpha: what they add is scaled by alpha / rank.
    """
    if rank < 1:
        raise ValueError(f"The rank of the adapters is {rank}; use at least 1.")
    peft = _peft()
    model.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS)
    peft.inject_adapter_in_model(config, model, adapter_name=_NAME)


@contextmanager
def merged(model: TokenLM) -> Iterator[TokenLM]:
    """While it lasts, the model has plain layers whose weights hold what the adapters add.

    Afterwards it is to the bit what it was.
    """
    found = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    weights = {name: layer.get_base_layer().weight.data for name, layer in found.items()}
    with torch.no_grad():
        for name, layer in found.items():
            base = layer.get_base_layer()
            base.weight.data = weights[name] + layer.get_delta_weight(_NAME)
            _put(model, name, base)
    try:
        yield model
    finally:
        for name, layer in found.items():
            layer.get_base_layer().weight.data = weights[name]
            _put(model, name, layer)


def save_adapters(model: TokenLM, folder: Path) -> None:
    """Writes the adapters for peft, whole or not at all: `PeftModel.from_pretrained` reads them."""
    state = _peft().get_peft_model_state_dict(model, adapter_name=_NAME)
    weights = {f"base_model.model.{name}": x.cpu().contiguous() for name, x in state.items()}
    config: Any = model.peft_config
    with replacing_folder(folder) as new:
        config[_NAME].save_pretrained(str(new))
        save_file(weights, new / "adapter_model.safetensors", metadata={"format": "pt"})


def _put(model: TokenLM, name: str, layer: Any) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ValueError(
            "Adapters need peft; install it with: pip install 'lm-audio[train]'."
        ) from error
    return peft
