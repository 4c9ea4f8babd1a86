"""Random weights with which signals keep their size, and parts are not symmetric."""

import torch
from torch import nn


def randomise(module: nn.Module) -> None:
    torch.manual_seed(0)
    for name, weight in module.named_parameters():
        last = name.rpartition(".")[2]
        is_scale = last in ("gamma", "weight_g") or ("norm" in name and last in ("weight", "alpha"))
        width = weight[0].numel() if weight.dim() > 1 else 4
        spread = 0.2 if is_scale or last in ("alpha", "beta") else 0.8 * width**-0.5
        mean = 0.7 * is_scale
        if name.endswith(("q_norm.gamma", "k_norm.gamma")):  # else two maps would nearly cancel
            mean, spread = 2.0, 0.7
        if name.endswith((".attn.to_qkv.weight", ".attn.to_out.weight")):
            spread *= 3
        nn.init.normal_(weight, mean, spread)
