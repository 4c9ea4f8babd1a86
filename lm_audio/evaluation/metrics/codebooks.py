"""Codebook usage of a codec: bit rate, used share, entropy.

Shapes: K codebooks, T frames, V codebook size.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class CodebookUse:
    """The usage of each entry: counts [K, V], int64."""

    counts: Tensor

    @property
    def used_share(self) -> Tensor:
        """The share of used entries: [K]."""
        return (self.counts > 0).double().mean(dim=1)

    @property
    def entropy(self) -> Tensor:
        """Entropy in bits per token: [K]; at most log2(V)."""
        shares = self.counts.double() / self.counts.sum(dim=1, keepdim=True)
        return -torch.xlogy(shares, shares).sum(dim=1) / math.log(2)

    @property
    def perplexity(self) -> Tensor:
        """The number of equally used entries with this entropy: [K]."""
        return 2**self.entropy


def count_tokens(tokens: Iterable[Tensor], *, codebook_size: int) -> CodebookUse:
    """Counts the tokens [K, T] of each clip."""
    counts = None
    for clip in tokens:
        more = torch.stack([row.bincount(minlength=codebook_size) for row in clip])
        counts = more if counts is None else counts + more
    if counts is None or not counts.sum():
        raise ValueError("No tokens to count. Give at least one clip.")
    return CodebookUse(counts=counts)


def bitrate(*, frame_rate: float, num_codebooks: int, codebook_size: int) -> float:
    """Bits per second, at log2(V) bits per token."""
    return frame_rate * num_codebooks * math.log2(codebook_size)
