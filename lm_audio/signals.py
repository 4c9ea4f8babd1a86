"""Signals: what flows from one stage to the next and, in the end, to the renderer.

Shapes: K codebooks, T frames, D width.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch

ACOUSTIC, SEMANTIC = "acoustic", "semantic"
"""Contents that audio prompts are turned into: by the renderer's encoder, and by a tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """What a stage makes, or a renderer takes.

    Args:
        kind: tokens [K, T], int64; latents [D, T], float32; or a vector [D, 1] for the whole item.
        content: what the values stand for; a stage continues a prompt's values of its own content.
        rate: frames a second; 0 for a vector.
        width: K or D.
        num_tokens: the size of each codebook; None for others.
    """

    kind: Literal["tokens", "latents", "vector"]
    content: str
    rate: Fraction
    width: int
    num_tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.kind == "tokens") != (self.num_tokens is not None):
            raise ValueError(
                f"Got {self.kind} with num_tokens={self.num_tokens}; tokens need a codebook size, "
                "other signals have none."
            )
        if (self.kind == "vector") != (self.rate == 0):
            raise ValueError(f"Got a {self.kind} signal of rate {self.rate}; only vectors have 0.")

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64 if self.kind == "tokens" else torch.float32

    @property
    def unknown(self) -> float:
        """What stands in a track where nothing is decided yet."""
        return -1 if self.kind == "tokens" else torch.nan

    def __str__(self) -> str:
        size = f"{self.width} codebooks of {self.num_tokens} tokens"
        if self.kind == "vector":
            return f"a vector of width {self.width}"
        if self.kind == "latents":
            size = f"latents of width {self.width}"
        return f"{size} at {float(self.rate):g} frames a second"
