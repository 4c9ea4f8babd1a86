"""What a step of training costs, counted without computing it: on the meta device.

For the tokenizers, whose steps are of like items; `estimate.py` knows the stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BYTES_PER_PARAMETER = 20  # float32: weight, gradient, two moments of AdamW, average
H100_FLOPS = 989e12  # a second, in bfloat16
UTILISATION = 0.4  # as far as training comes
NUMBERS_OF_GPUS = tuple(2**n for n in range(9))


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Of one item of a batch, in float32.

    Args:
        num_parameters: those that are trained.
        flops: of the products of matrices and convolutions, forwards and backwards.
        activations: bytes that are kept for the backward pass.
    """

    num_parameters: int
    flops: int
    activations: int


def step_cost(modules: Sequence[nn.Module], loss: Callable[[], Tensor], *, items: int) -> StepCost:
    """Counts what `loss` does, called with the modules on the meta device, and its way back.

    Args:
        items: how many items of a batch `loss` takes.
    """
    weights = [w for module in modules for w in module.parameters() if w.requires_grad]
    known = {w.untyped_storage()._cdata for module in modules for w in module.parameters()}
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            sizes[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            result = loss()
        result.backward()
    return StepCost(
        num_parameters=sum(weight.numel() for weight in weights),
        flops=counter.get_total_flops() // items,
        activations=sum(sizes.values()) // items,
    )


def cost_table(cost: StepCost, *, batch_size: int, steps: int) -> str:
    """Memory of each GPU and time of the run, for 1 to 256 GPUs that share a batch."""
    state = BYTES_PER_PARAMETER * cost.num_parameters
    lines = [
        f"{cost.num_parameters / 1e6:.1f} M parameters, {state / 1e9:.2f} GB with their state; "
        f"{cost.flops * batch_size / 1e12:.3g} TFLOP a step of {batch_size} items",
        "",
        f"| GPUs | items each | GB each, at most | hours at {UTILISATION:.0%} of an H100 |",
        "|---:|---:|---:|---:|",
    ]
    for gpus in NUMBERS_OF_GPUS:
        if batch_size % gpus == 0:
            items = batch_size // gpus
            memory = (state + items * cost.activations) / 1e9
            hours = steps * items * cost.flops / (H100_FLOPS * UTILISATION) / 3600
            lines.append(f"| {gpus} | {items} | {memory:.2f} | {hours:.2f} |")
    return "\n".join(lines)
