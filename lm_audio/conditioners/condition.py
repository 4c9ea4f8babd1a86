"""What every conditioner makes, and what it makes of nothing.

Shapes: B batch, L condition length, D width.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from lm_audio.networks.condition import Condition

NullKind = Literal["zero", "learned", "none"]


class Null(nn.Module):
    """What stands for a value that was dropped or not given.

    Args:
        kind: one vector, of zeros or learned, or no vector at all.
    """

    embedding: Tensor
    """[1, D], or [0, D] where the kind is none. Results go to its device, in its type."""

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
            zeros = torch.zeros(1 if kind == "zero" else 0, dim)
            self.register_buffer("embedding", zeros, persistent=False)


class Conditioner(Protocol):
    """Turns one value of a user, per row of a batch, into tensors of width `dim`.

    A row does not depend, to the bit, on the other rows of its batch.
    """

    dim: int
    null: Null

    def __call__(self, values: Sequence[Any | None]) -> Condition:
        """Embeds B values of a type that each conditioner states; None gives the null."""
