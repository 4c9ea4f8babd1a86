"""A two-sided transformer that adds codebooks to frames whose first ones are known (Bark's last).

It predicts codebook k of all frames at once from codebooks 0 to k of all frames; what stands in
codebook k is a draft, or the token one past the codebook where there is none.

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
        vocab_size: the tokens of a codebook, and special ones.
        num_given: how many codebooks are never predicted.
    """

    transformer: TransformerConfig
    num_codebooks: int
    num_given: int
    vocab_size: int

    def __post_init__(self) -> None:
        if not 0 < self.num_given < self.num_codebooks:
            raise ValueError(
                f"Got {self.num_given} given codebooks of {self.num_codebooks}; give at least one, "
                "and leave at least one to predict."
            )
        if self.transformer.causal:
            raise ValueError("The transformer is causal; give a fine model a two-sided one.")


class FineModel(nn.Module):
    """Embeddings of the codebooks so far, summed; a transformer; heads tied to the embeddings."""

    def __init__(self, config: FineModelConfig) -> None:
        super().__init__()
        self.config = config
        rows, dim = config.num_codebooks * config.vocab_size, config.transformer.dim
        self.embedding = nn.Embedding(rows, dim)  # those of codebook k begin at row k * V
        self.transformer = Transformer(config.transformer)

    def forward(self, tokens: Tensor, *, codebook: int) -> Tensor:
        """Logits [B, T, V] of one codebook, from tokens [B, K, T] of it and of those before it."""
        config = self.config
        if not config.num_given <= codebook < config.num_codebooks:
            raise ValueError(
                f"Got codebook {codebook}; the model predicts {config.num_given} to "
                f"{config.num_codebooks - 1}."
            )
        first = torch.arange(codebook + 1, device=tokens.device) * config.vocab_size
        rows = tokens[:, : codebook + 1] + first[:, None]
        x = self.transformer(self.embedding(rows).sum(dim=1))  # [B, T, D]
        head = self.embedding.weight.unflatten(0, (config.num_codebooks, -1))
        # Head i is tied to table i + 1, however many codebooks are given.
        return F.linear(x, head[codebook - config.num_given + 1])
