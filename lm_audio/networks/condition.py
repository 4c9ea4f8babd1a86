"""Conditions as a network takes them in; conditioners make them.

Shapes: B batch, T frames, L condition length, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Embeddings [B, L, D], 0 on padding, and their mask [B, L], False on padding.

    Each row begins with its own entries; padding comes behind them.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Conditions as a model takes them in, None where it takes none that way.

    Args:
        cross: attended to.
        prepend: put before the input; its length may be 0.
        sum: [B, 1 or T, D], added to the input.
    """

    cross: Condition | None = None
    prepend: Condition | None = None
    sum: Tensor | None = None


def stack(rows: Sequence[Tensor]) -> Condition:
    """Makes one condition of B rows [L, D], each of its own length, 0 included."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    embeddings = pad_sequence(list(rows), batch_first=True)  # [B, L, D]
    positions = torch.arange(embeddings.shape[1], device=lengths.device)
    return Condition(embeddings=embeddings, mask=positions < lengths[:, None])
