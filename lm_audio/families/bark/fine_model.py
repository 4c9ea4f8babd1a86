"""Bark's fine model: a two-sided transformer that predicts the missing codebooks of frames.

It predicts codebook k of all frames at once from codebooks 0 to k of all frames; the input of
codebook k is a draft, or, without one, the token one past the codebook.

Shapes: B batch, K codebooks, T frames, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class FineModelConfig:
    """The shape of a fine model.

    Args:
        vocab_size: tokens per codebook, including special ones.
        num_given: the number of codebooks that are never predicted.
    """

    transformer: TransformerConfig
    num_codebooks: int
    num_given: int
    vocab_size: int

    def __post_init__(self) -> None:
        if not 0 < self.num_given < self.num_codebooks:
            raise ValueError(
                f"num_given must be between 1 and {self.num_codebooks - 1}, got {self.num_given}."
            )
        if self.transformer.causal:
            raise ValueError("A fine model needs a two-sided transformer. Set causal=False.")


class FineModel(nn.Module):
    """Embeddings of the codebooks so far, summed; a transformer; heads tied to the embeddings."""

    def __init__(self, config: FineModelConfig) -> None:
        super().__init__()
        self.config = config
        rows, dim = config.num_codebooks * config.vocab_size, config.transformer.dim
        self.embedding = nn.Embedding(rows, dim)  # codebook k starts at row k * V
        self.transformer = Transformer(config.transformer)

    def forward(self, tokens: Tensor, *, codebook: int) -> Tensor:
        """Logits [B, T, V] of one codebook, from tokens [B, K, T] of codebooks 0 to `codebook`."""
        config = self.config
        if not config.num_given <= codebook < config.num_codebooks:
            raise ValueError(
                f"codebook must be between {config.num_given} and {config.num_codebooks - 1}, got "
                f"{codebook}."
            )
        first = torch.arange(codebook + 1, device=tokens.device) * config.vocab_size
        rows = tokens[:, : codebook + 1] + first[:, None]
        x = self.transformer(self.embedding(rows).sum(dim=1))  # [B, T, D]
        head = self.embedding.weight.unflatten(0, (config.num_codebooks, -1))
        # Head i is tied to table i + 1, however many codebooks are given.
        return F.linear(x, head[codebook - config.num_given + 1])
