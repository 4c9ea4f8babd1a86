"""How much of a codebook is in use."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """Means over codebooks: the share of codes that are used at all, and the perplexity, the number
    of equally frequent codes that would say as much."""

    used: float
    perplexity: float


def code_usage(counts: Tensor) -> CodeUsage:
    """counts: [K, V], how often each code of each codebook was used."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    entropies = -torch.special.xlogy(shares, shares).sum(1)  # [K]
    return CodeUsage(
        used=(counts > 0).double().mean().item(), perplexity=entropies.exp().mean().item()
    )
