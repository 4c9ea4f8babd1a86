"""A label from a fixed list, such as a sound class or a speaker.

Shapes: B batch, D width.
"""

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null, NullKind
from lm_audio.networks.condition import Condition, stack

MOST_SHOWN = 10


class LabelConditioner(nn.Module):
    """One learned vector per label."""

    def __init__(self, labels: Sequence[str], dim: int, *, null: NullKind = "learned") -> None:
        super().__init__()
        if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
            raise ValueError(
                f"Labels must be distinct and non-empty, got {len(labels)}, of which "
                f"{len(set(labels))} are distinct."
            )
        self.labels = tuple(labels)
        self.dim = dim
        self.null = Null(null, dim)
        self.embedding = nn.Embedding(len(labels), dim)
        self._rows = {label: row for row, label in enumerate(self.labels)}

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B labels, each to one entry."""
        return stack([self.null.embedding if v is None else self._embed(v) for v in values])

    def _embed(self, label: str) -> Tensor:
        row = self._rows.get(label)
        if row is None:
            raise ValueError(_unknown(label, self.labels))
        return self.embedding(torch.tensor([row], device=self.embedding.weight.device))


def _unknown(label: object, labels: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(str(label), labels, n=1)
    hint = f". Did you mean {nearest[0]!r}?" if nearest else "."
    if len(labels) <= MOST_SHOWN:
        return f"Unknown label {label!r}{hint} Choose one of: {', '.join(labels)}."
    shown = ", ".join(labels[:MOST_SHOWN])
    return f"Unknown label {label!r}{hint} Choose one of {len(labels)}: {shown}, ..."
