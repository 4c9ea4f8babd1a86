"""Codebook usage: the share of used codes and their perplexity."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CodeUsage:
    """Means over codebooks: the share of used codes, and the perplexity, the number of equally
    frequent codes with the same entropy."""

    used: float
    perplexity: float


def code_usage(counts: Tensor) -> CodeUsage:
    """counts: [K, V], how often each code of each codebook was used."""
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    entropies = -torch.special.xlogy(shares, shares).sum(1)  # [K]
    return CodeUsage(
        used=(counts > 0).double().mean().item(), perplexity=entropies.exp().mean().item()
    )
