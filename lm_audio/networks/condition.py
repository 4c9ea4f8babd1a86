"""Conditions in the form that a network takes; conditioners make them.

Shapes: B batch, C channels, T frames, L condition length, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Embeddings [B, L, D], 0 on padding, and their mask [B, L], False on padding.

    Rows are padded at the end.
    """

    embeddings: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Fused:
    """Conditions by the way that a model takes them; None for unused ways.

    Args:
        cross: for cross-attention.
        prepend: prepended to the input; its length may be 0.
        sum: [B, 1 or T, D], added to the input.
        stacked: [B, T, C], a signal beside the input; 0 where it is missing at the end.
        named: each of its own width, for networks that take conditions by name.
    """

    cross: Condition | None = None
    prepend: Condition | None = None
    sum: Tensor | None = None
    stacked: Tensor | None = None
    named: Mapping[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Values [B, D, T] of frames, and the mask [B, T] of those that are known."""

    values: Tensor
    mask: Tensor


def stack(rows: Sequence[Tensor]) -> Condition:
    """Makes one condition of B rows [L, D], each of its own length, 0 included."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    embeddings = pad_sequence(list(rows), batch_first=True)  # [B, L, D]
    positions = torch.arange(embeddings.shape[1], device=lengths.device)
    return Condition(embeddings=embeddings, mask=positions < lengths[:, None])


def joined(rows: Sequence[Fused]) -> Fused:
    """Joins the conditions of B rows of batch size 1."""
    if len(rows) == 1:
        return rows[0]

    def stacked(conditions: Sequence[Condition | None]) -> Condition | None:
        found = [one.embeddings[0, one.mask[0]] for one in conditions if one is not None]
        return stack(found) if found else None

    sums = [row.sum for row in rows if row.sum is not None]
    signals = [row.stacked[0] for row in rows if row.stacked is not None]
    named = {name: stacked([row.named[name] for row in rows]) for name in rows[0].named}
    return Fused(
        cross=stacked([row.cross for row in rows]),
        prepend=stacked([row.prepend for row in rows]),
        sum=torch.cat(sums) if sums else None,
        stacked=pad_sequence(signals, batch_first=True) if signals else None,
        named={name: condition for name, condition in named.items() if condition is not None},
    )


def between(a: Fused, b: Fused, share: float) -> Fused | None:
    """Conditions between two of equal lengths, linearly; None if their lengths differ."""
    pairs = [(a.cross, b.cross), (a.prepend, b.prepend)]
    pairs += [(a.named[name], b.named[name]) for name in a.named]
    for one, other in pairs:
        if one is not None and other is not None and not torch.equal(one.mask, other.mask):
            return None

    def mixed(one: Condition | None, other: Condition | None) -> Condition | None:
        if one is None or other is None:
            return one
        return Condition(
            embeddings=torch.lerp(one.embeddings, other.embeddings, share), mask=one.mask
        )

    named = {name: mixed(condition, b.named[name]) for name, condition in a.named.items()}
    return Fused(
        cross=mixed(a.cross, b.cross),
        prepend=mixed(a.prepend, b.prepend),
        sum=None if a.sum is None or b.sum is None else torch.lerp(a.sum, b.sum, share),
        named={name: one for name, one in named.items() if one is not None},
    )
