"""Validates the inputs of a semantic tokenizer.

Shapes: B batch, C channels, N samples.
"""

import torch
from torch import Tensor


def mix_to_mono(samples: Tensor) -> Tensor:
    """Averages the channels of samples [B, C, N], float32: [B, N]."""
    if samples.ndim != 3 or 0 in samples.shape:
        raise ValueError(
            f"Got samples of shape {list(samples.shape)}; expected [B, C, N] with no empty axis."
        )
    if samples.dtype != torch.float32:
        raise ValueError(
            f"Got samples of type {samples.dtype}; expected torch.float32. Convert them."
        )
    # A view if possible: an hour of samples takes 230 MB.
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)


def check_layer(layer: int, *, num_layers: int) -> None:
    """Raises unless the layer exists; 0 is the encoder's input."""
    if not 0 <= layer <= num_layers:
        raise ValueError(f"Got layer {layer}; this model has layers 0 to {num_layers}.")
