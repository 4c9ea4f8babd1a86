"""Signals: the values that flow from stage to stage and into the renderer.

Shapes: K codebooks, T frames, D width.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch

ACOUSTIC, SEMANTIC = "acoustic", "semantic"
"""Contents of audio prompts: made by the renderer's encoder, and by the semantic tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """The output of a stage, or the input of a renderer.

    Args:
        kind: tokens [K, T], int64; latents [D, T], float32; or vectors [D, num_vectors], float32,
            for the whole item.
        content: what the values mean; a stage continues the prompt's values of its own content.
        rate: frames per second; 0 for vectors.
        width: K or D.
        num_tokens: the size of each codebook; None for other kinds.
        num_vectors: for the whole item; 1 for other kinds.
    """

    kind: Literal["tokens", "latents", "vector"]
    content: str
    rate: Fraction
    width: int
    num_tokens: int | None = None
    num_vectors: int = 1

    def __post_init__(self) -> None:
        if (self.kind == "tokens") != (self.num_tokens is not None):
            raise ValueError(
                f"Tokens need num_tokens and other signals have none, got {self.kind} with "
                f"num_tokens={self.num_tokens}."
            )
        if self.num_vectors < 1 or (self.num_vectors > 1 and self.kind != "vector"):
            raise ValueError(
                f"num_vectors must be at least 1 for vectors and 1 for other signals, got "
                f"{self.num_vectors} for {self.kind}."
            )
        if (self.kind == "vector") != (self.rate == 0):
            raise ValueError(
                f"Vectors have rate 0 and other signals a positive one, got {self.kind} with "
                f"rate {self.rate}."
            )

    @property
    def dtype(self) -> torch.dtype:
        return torch.int64 if self.kind == "tokens" else torch.float32

    @property
    def unknown(self) -> float:
        """The placeholder for undecided values in a track."""
        return -1 if self.kind == "tokens" else torch.nan

    def __str__(self) -> str:
        size = f"{self.width} codebooks of {self.num_tokens} tokens"
        if self.kind == "vector":
            count = "a vector" if self.num_vectors == 1 else f"{self.num_vectors} vectors"
            return f"{count} of width {self.width}"
        if self.kind == "latents":
            size = f"latents of width {self.width}"
        return f"{size} at {float(self.rate):g} frames per second"
