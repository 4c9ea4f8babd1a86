"""Low-rank adapters (LoRA, arXiv 2106.09685) for fine-tuning, through peft.

Adds them to a token language model, merges them into its weights, and saves them for peft.
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
"""The linear layers that get adapters."""

_NAME = "default"  # peft's name for the only adapter


def add_adapters(model: TokenLM, *, rank: int, alpha: float) -> None:
    """Adds adapters to all attention and feed-forward layers and freezes everything else.

    Initially they add nothing: one factor of each is zero, the other is random.

    Args:
        alpha: the output of adapters is scaled by alpha / rank.
    """
    if rank < 1:
        raise ValueError(f"The adapter rank must be at least 1, got {rank}.")
    peft = _peft()
    model.requires_grad_(False)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS)
    peft.inject_adapter_in_model(config, model, adapter_name=_NAME)


@contextmanager
def merged(model: TokenLM) -> Iterator[TokenLM]:
    """Within this context, the adapters are merged into plain layers.

    Afterwards the model is restored bit for bit.
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
    """Writes the adapters for `PeftModel.from_pretrained` atomically."""
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
            "Adapters need peft. Install it with: pip install 'lm-audio[train]'."
        ) from error
    return peft
