"""Attention of many queries, by the fastest kernel for the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.networks.cpu import kernels


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attends from q [B, H, S, D] to k, v [B, H, L, D].

    Args:
        mask: broadcastable to [B, H, S, L], False where a query does not see a key.
    """
    if mask is None and all(map(_suits_kernel, (q, k, v))):
        return torch.ops.lm_audio.attend(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def _suits_kernel(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.shape[-1] % 2 == 0
        and x.stride(-1) == 1
        and not torch.is_grad_enabled()
        and kernels.attends()
    )
