"""All conditioners of a model, and the fusion of their conditions.

Shapes: B batch, T frames, L condition length, D width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lm_audio.conditioners.aligned_signal import AlignedSignal
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.networks.condition import Condition, Fused, stack

Fuse = Literal["cross", "prepend", "sum", "stack", "named"]
"""How a network takes a condition; named ones as they are, by name."""


class Conditioners(nn.ModuleDict):
    """Named conditioners, of one width but for those that are fused as "stack" or "named".

    Args:
        conditioners: each a `Conditioner`, an `AlignedTokens` or an `AlignedSignal`.
        fuse: how each condition is fused, by name. Conditions fused alike keep this order.
    """

    def __init__(self, conditioners: Mapping[str, nn.Module], fuse: Mapping[str, Fuse]) -> None:
        _check(conditioners, fuse)
        super().__init__({name: conditioners[name] for name in fuse})
        self.fuse = dict(fuse)

    def forward(
        self, values: Mapping[str, Sequence[Any | None]], *, frames: Tensor | None = None
    ) -> Fused:
        """Embeds and fuses B values of each name; missing names get the null.

        Args:
            frames: [F] or [B, F], the frames that aligned conditions are for; all by default.
        """
        if not self.fuse and not values:
            return Fused()
        B = self._batch_size(values)
        made: dict[str, Condition | Tensor] = {}
        for name in self.fuse:
            given, conditioner = values.get(name, [None] * B), self[name]
            if isinstance(conditioner, AlignedTokens | AlignedSignal):
                made[name] = conditioner(given, frames=frames)
            else:
                made[name] = conditioner(given)
        return self.fused(made)

    def fused(self, conditions: Mapping[str, Condition | Tensor]) -> Fused:
        """Fuses embedded conditions; tensors are summed or stacked as they are."""
        ways: dict[str, list[Any]] = {way: [] for way in get_args(Fuse)}
        named: dict[str, Condition] = {}
        for name, way in self.fuse.items():
            if name in conditions:
                made = conditions[name]
                if way == "sum" and isinstance(made, Condition):
                    made = _single(name, made)
                if way == "named" and isinstance(made, Condition):
                    named[name] = made
                else:
                    ways[way].append(made)
        return Fused(
            cross=_packed(ways["cross"]),
            prepend=_packed(ways["prepend"]),
            sum=_sum(ways["sum"]),
            stacked=torch.cat(ways["stack"], dim=2) if ways["stack"] else None,
            named=named,
        )

    def _batch_size(self, values: Mapping[str, Sequence[Any | None]]) -> int:
        known = ", ".join(self.fuse) or "none"
        for name, given in values.items():
            if name not in self.fuse:
                raise ValueError(f"Unknown condition {name!r}. The model accepts: {known}.")
            if not isinstance(given, list | tuple) or not given:
                raise ValueError(f"{name!r} must be a list of at least one value, got {given!r}.")
        sizes = {name: len(given) for name, given in values.items()}
        if len(set(sizes.values())) != 1:
            found = ", ".join(f"{size} for {name!r}" for name, size in sizes.items()) or "none"
            raise ValueError(f"Expected equally many values of each of: {known}; got {found}.")
        return next(iter(sizes.values()))


def _check(conditioners: Mapping[str, nn.Module], fuse: Mapping[str, Fuse]) -> None:
    if conditioners.keys() != fuse.keys():
        raise ValueError(
            f"conditioners and fuse need the same names, got {list(conditioners)} and {list(fuse)}."
        )
    widths_of = {
        name: x.dim for name, x in conditioners.items() if fuse[name] not in ("stack", "named")
    }
    if len(set(widths_of.values())) > 1:
        widths = ", ".join(f"{name} {dim}" for name, dim in widths_of.items())
        raise ValueError(f"All conditioners must have the same width, got {widths}.")
    for name, way in fuse.items():
        if way not in get_args(Fuse):
            ways = ", ".join(get_args(Fuse))
            raise ValueError(f"Unknown fuse method {way!r} for {name!r}. Choose one of: {ways}.")
        if isinstance(conditioners[name], AlignedTokens):
            if way != "sum":
                raise ValueError(f"{name!r} is aligned with frames. Use 'sum', not {way!r}.")
            continue
        if (way == "stack") != isinstance(conditioners[name], AlignedSignal):
            raise ValueError(f"{name!r} must be an AlignedSignal to be stacked, and only then.")
        if way == "stack":
            continue
        null = conditioners[name].null
        if isinstance(null, Null) and null.kind == "none" and way in ("cross", "sum"):
            raise ValueError(
                f"{name!r} has no null, so {way!r} would fail if it is not given. "
                "Use 'prepend' or add a null."
            )


def _packed(conditions: Sequence[Condition]) -> Condition | None:
    """Concatenates the entries of all conditions in each row and pads at the end."""
    if len(conditions) < 2:
        return conditions[0] if conditions else None
    B = len(conditions[0].mask)
    return stack([torch.cat([c.embeddings[b, c.mask[b]] for c in conditions]) for b in range(B)])


def _single(name: str, condition: Condition) -> Tensor:
    L = condition.mask.shape[1]
    if L != 1:
        raise ValueError(
            f"{name!r} has {L} entries per row, but only one can be summed. "
            "Use 'cross' or 'prepend'."
        )
    return condition.embeddings  # [B, 1, D]


def _sum(parts: Sequence[Tensor]) -> Tensor | None:
    if not parts:
        return None
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
