"""Checks of what users pass to a semantic tokenizer: one clear sentence for each mistake.

Shapes: B batch, C channels, N samples.
"""

import torch
from torch import Tensor


def mix_to_mono(samples: Tensor) -> Tensor:
    """Samples [B, C, N], float32, to their means over channels: [B, N]."""
    if samples.ndim != 3 or 0 in samples.shape:
        raise ValueError(
            f"Got samples of shape {list(samples.shape)}; expected [B, C, N] with no empty axis."
        )
    if samples.dtype != torch.float32:
        raise ValueError(
            f"Got samples of type {samples.dtype}; expected torch.float32, convert them."
        )
    # A view where it can be: an hour of samples is 230 MB.
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)


def check_layer(layer: int, *, num_layers: int) -> None:
    """Raises unless the model has the layer, or it is 0: the encoder's input."""
    if not 0 <= layer <= num_layers:
        raise ValueError(f"Got layer {layer}; this model has layers 0 to {num_layers}.")
