"""Makes the linear layers of a model ready for the steps of a decode loop on a CPU."""

import logging
from collections.abc import Iterable
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
"""same: the numbers that they have, in another order."""


def pack(model: nn.Module, kind: Kind = "same") -> None:
    """Packs each linear layer that is not packed yet, one after the other: no two copies of the
    weights are in memory.

    Where this CPU or this torch lacks what it takes, the layers stay as they are: slower, and no
    less correct.
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
    """Gives a model on the meta device its weights, all of them, one after the other.

    They are copied, so that they no longer hang on a file; and a linear layer is packed as soon as
    it is whole, so that hardly more is ever in memory than in the end. `pack` completes that.
    """
    for name, weight in weights:
        path, _, own = name.rpartition(".")
        module: Any = model.get_submodule(path)
        to_pack = packing is not None and own == "weight" and isinstance(module, Linear)
        there = weight.to(device, dtype, copy=not to_pack)  # packing is a copy
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
    """How many numbers a model learned, packed or not."""
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
    """Packs a layer; False, and a line in the log, where that cannot be."""
    layer: Any = model.get_submodule(name)  # held no longer than it is packed
    try:
        if kind == "int8":
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Int8Linear(layer))
        else:
            layer.pack()
    except (AttributeError, NotImplementedError, RuntimeError) as error:
        logger.warning(
            "Linear layers are not packed, so decoding is slower (torch %s: %s).",
            torch.__version__,
            str(error).splitlines()[0],
        )
        return False
    return True


def _compute_in_float32(model: nn.Module) -> None:
    """What lies between the linear layers, which the kernels make float32."""
    for module in model.modules():
        if not isinstance(module, Linear | Int8Linear | nn.Embedding):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
