"""AudioLDM 2's language of audio, from text: embeddings are projected, and GPT-2 continues them.

The parameters of the projection are named as in diffusers.

Shapes: B batch, L vectors of a text, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lm_audio.families.audioldm.gpt2 import Gpt2


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """The shape of the projection.

    Args:
        first, second: widths of the embeddings of CLAP and of the other text encoder.
        dim: of GPT-2.
        num_positions: of learned positions of the second sequence; 0 for none.
    """

    first: int
    second: int
    dim: int
    num_positions: int = 0


class Projection(nn.Module):
    """Projects two sequences to one, each between a learned start and end."""

    def __init__(self, config: ProjectionConfig) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.first, config.dim)
        self.projection_1 = nn.Linear(config.second, config.dim)
        self.sos_embed = nn.Parameter(torch.empty(config.dim))
        self.eos_embed = nn.Parameter(torch.empty(config.dim))
        self.sos_embed_1 = nn.Parameter(torch.empty(config.dim))
        self.eos_embed_1 = nn.Parameter(torch.empty(config.dim))
        if config.num_positions:
            self.learnable_positional_embedding = nn.Parameter(
                torch.empty(1, config.second, config.num_positions)
            )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Maps sequences [L, D] of two widths to one [L + L + 4, D]."""
        if self.config.num_positions:
            second = second + self.learnable_positional_embedding[0, :, : len(second)].T
        return torch.cat(
            [
                self.sos_embed[None],
                self.projection(first),
                self.eos_embed[None],
                self.sos_embed_1[None],
                self.projection_1(second),
                self.eos_embed_1[None],
            ]
        )


class AudioLanguage(nn.Module):
    """Text embeddings to the language of audio.

    Args:
        num_vectors: of the result.
        release: called after use, to give memory back.
    """

    def __init__(
        self,
        projection: Projection,
        gpt2: Gpt2,
        *,
        num_vectors: int,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.projection = projection
        self.gpt2 = gpt2
        self.num_vectors = num_vectors
        self._release = release

    def forward(self, clap: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors [D, L] from the embeddings [1, D] and [L, D], with a mask [L] of the second."""
        weight = self.gpt2.wpe.weight
        x = self.projection(clap.to(weight), second.to(weight))
        if mask is not None:
            known = mask.new_ones(3 + len(clap)), mask, mask.new_ones(1)
            mask = torch.cat(known)
        made = self.gpt2.continued(x[None], num_steps=self.num_vectors, mask=mask)[0].T
        self._release()
        return made
