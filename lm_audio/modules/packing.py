"""Makes the linear layers of a model ready for the steps of a decode loop on a CPU."""

import logging
from typing import Any, Literal

import torch
from torch import nn

from lm_audio.modules import kernels
from lm_audio.modules.int8 import Int8Linear
from lm_audio.modules.kernel_steps import KernelSteps
from lm_audio.modules.linear import Linear
from lm_audio.modules.transformer import Transformer

logger = logging.getLogger(__name__)

Kind = Literal["same", "int8"]
"""same: the numbers that they have, in another order."""


def pack(model: nn.Module, kind: Kind = "same") -> None:
    """Packs each linear layer, one after the other: no two copies of the weights are in memory.

    Where this CPU or this torch lacks what it takes, the layers stay as they are: slower, and no
    less correct.
    """
    low_precision = kind == "int8" or next(model.parameters()).dtype == torch.bfloat16
    for name in [name for name, layer in model.named_modules() if isinstance(layer, Linear)]:
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
            return
    if low_precision and kernels.available():
        _compute_in_float32(model)
    for module in model.modules():
        if isinstance(module, Transformer):
            module.kernel_steps = KernelSteps.of(module.blocks, module.config)


def _compute_in_float32(model: nn.Module) -> None:
    """What lies between the linear layers, which the kernels make float32, and how it is kept."""
    for module in model.modules():
        if isinstance(module, Transformer):
            module.cache_dtype = torch.bfloat16
        if not isinstance(module, Linear | Int8Linear | nn.Embedding):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()
