"""Blends: several prompts at once, each with a weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_audio.generation.story import numbered


@dataclass(frozen=True)
class Blend:
    """Prompts and their relative weights: {"rain": 3, "wind": 1} is three quarters rain.

    Diffusion stages mix the outputs of their network for each prompt, in every pass; that of a
    single prompt is as without a blend.
    """

    parts: Mapping[str, float]

    def __post_init__(self) -> None:
        shares = [share for share in self.parts.values() if isinstance(share, int | float)]
        valid = all(isinstance(text, str) for text in self.parts) and all(
            math.isfinite(share) and share >= 0 for share in shares
        )
        if not valid or len(shares) < len(self.parts) or not sum(shares) > 0:
            raise ValueError(
                "A blend needs prompts with weights of at least 0, one of them above 0, such as "
                f'{{"rain": 3, "wind": 1}}, got {self.parts!r}.'
            )
        # Sorted, since sums depend on the order of their terms.
        found = {text: share / sum(shares) for text, share in sorted(self.parts.items()) if share}
        object.__setattr__(self, "parts", found)

    def __str__(self) -> str:
        return "; ".join(f"{share:.6g}: {text}" for text, share in self.parts.items())

    @property
    def texts(self) -> tuple[str, ...]:
        """Those with a weight above 0."""
        return tuple(self.parts)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each text; their sum is 1."""
        return tuple(self.parts.values())


def parse_blend(text: str) -> Blend:
    """A blend such as "3: rain; 1: wind". Prompts cannot contain semicolons."""
    form = 'A blend is written as "3: rain; 1: wind" (its weight'
    parts: dict[str, float] = {}
    for share, prompt in numbered(text, form=form):
        if prompt in parts:
            raise ValueError(f"The prompts of a blend must differ, got {prompt!r} twice.")
        parts[prompt] = share
    return Blend(parts)


def as_blend(value: Any) -> Blend:
    """A blend as it is, or from such a mapping."""
    return value if isinstance(value, Blend) else Blend(value)


def is_blend(value: Any) -> bool:
    """Whether a value is a blend, or maps something to weights."""
    return isinstance(value, Blend | Mapping)
