"""Packs the linear layers of a model for decoding on a CPU."""

import logging
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lm_audio.networks.cpu import kernels
from lm_audio.networks.cpu.int8 import Int8Linear
from lm_audio.networks.cpu.kernel_steps import KernelSteps
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.transformer import Transformer
from lm_audio.system import trim_malloc

logger = logging.getLogger(__name__)

Kind = Literal["same", "int8"]
"""same: the same values in another layout."""


def pack(model: nn.Module, kind: Kind = "same") -> None:
    """Packs the linear layers one by one, so that memory never has two copies of the weights.

    If this CPU or torch does not support it, the layers stay unpacked: slower but correct.
    """
    low_precision = kind == "int8" or next(model.parameters()).dtype == torch.bfloat16
    for name in [name for name, layer in model.named_modules() if _is_plain(layer)]:
        if not _packed(model, name, kind):
            return
    if low_precision and kernels.available():
        _compute_in_float32(model)
    for module in model.modules():
        if isinstance(module, Transformer):
            module.kernel_steps = KernelSteps.of(module.blocks, module.config)
            if low_precision and module.kernel_steps is not None:
                module.cache_dtype = torch.int8 if kind == "int8" else torch.bfloat16


def fill(
    model: nn.Module,
    weights: Iterable[tuple[str, Tensor]],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packing: Kind | None = None,
) -> None:
    """Loads all weights into a model on the meta device, one by one.

    They are copied, so that they no longer depend on a memory-mapped file. Linear layers are packed
    as soon as they are complete, to limit peak memory; `pack` packs the rest.
    """
    for name, weight in weights:
        path, _, own = name.rpartition(".")
        module: Any = model.get_submodule(path)
        to_pack = packing is not None and own == "weight" and isinstance(module, Linear)
        there = weight.to(device, dtype, copy=not to_pack)  # packing copies
        if own in module._parameters:
            learns = module.get_parameter(own).requires_grad
            there = nn.Parameter(there, requires_grad=learns)
        setattr(module, own, there)
        del weight, there
        whole = not any(parameter.is_meta for parameter in module.parameters())
        if packing is not None and whole and _is_plain(module):
            if not _packed(model, path, packing):
                packing = None
                module.weight.data = module.weight.data.clone()
            trim_malloc()


def num_parameters(model: nn.Module) -> int:
    """The number of parameters of a model, packed or not."""
    count = 0
    for module in model.modules():
        if isinstance(module, Linear | Int8Linear):
            biases = 0 if module.bias is None else module.out_features
            count += module.in_features * module.out_features + biases
        else:
            count += sum(weight.numel() for weight in module.parameters(recurse=False))
    return count


def _is_plain(layer: nn.Module) -> bool:
    return isinstance(layer, Linear) and not layer.packed


def _packed(model: nn.Module, name: str, kind: Kind) -> bool:
    """Packs a layer; if that fails, logs it and returns False."""
    layer: Any = model.get_submodule(name)  # local, so that it is freed after packing
    try:
        if kind == "int8":
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(layer))
        else:
            layer.pack()
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        _warn(str(error).splitlines()[0])
        return False
    return True


@cache  # once a process: the models of all stages have the same reason
def _warn(reason: str) -> None:
    logger.warning(
        "Linear layers are not packed, so decoding is slower (torch %s: %s).",
        torch.__version__,
        reason,
    )


def _compute_in_float32(model: nn.Module) -> None:
    """Converts everything between the linear layers to float32, the kernels' output dtype."""
    for module in model.modules():
        if not isinstance(module, Linear | Int8Linear | nn.Embedding):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
