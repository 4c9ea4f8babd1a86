"""The conditioner interface, and the null condition.

Shapes: B batch, L condition length, D width.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from lm_audio.networks.condition import Condition

NullKind = Literal["zero", "zeros", "learned", "none"]


class Null(nn.Module):
    """The condition in place of a value that was dropped or not given.

    Args:
        kind: one zero or learned vector, or no vector at all. zeros: as many zero vectors as the
            dropped value has; one if none was given.
    """

    embedding: Tensor
    """[1, D], or [0, D] if the kind is none. Determines the device and dtype of conditions."""

    def __init__(self, kind: NullKind, dim: int) -> None:
        super().__init__()
        if kind not in get_args(NullKind):
            raise ValueError(
                f"Unknown null {kind!r}. Choose one of: {', '.join(get_args(NullKind))}."
            )
        self.kind = kind
        if kind == "learned":
            self.embedding = nn.Parameter(torch.randn(1, dim) * dim**-0.5)
        else:
            zeros = torch.zeros(0 if kind == "none" else 1, dim)
            self.register_buffer("embedding", zeros, persistent=False)


class Conditioner(Protocol):
    """Embeds one value per row of a batch in tensors of width `dim`.

    A row does not depend, bit for bit, on the other rows of its batch.
    """

    dim: int
    null: Null

    def __call__(self, values: Sequence[Any | None]) -> Condition:
        """Embeds B values of the conditioner's type; None gives the null."""
