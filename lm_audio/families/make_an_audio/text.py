"""The text of Make-An-Audio: CLAP's projection of every token of a BERT, instead of the first one.

Each text is encoded by itself, padded to a fixed number of tokens. The encoder attends to the
padding and the U-Net to its embeddings, as in training.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.pretrained_text import checked_text, token_ids
from lm_audio.networks.condition import Condition, stack
from lm_audio.saving.part_folder import Release, nothing

TEXT = "text"
"""The name of the condition."""
NUM_TOKENS = 77


class Projection(nn.Module):
    """CLAP's projection into the space of sounds."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, out_width, bias=False)
        self.linear2 = nn.Linear(out_width, out_width, bias=False)
        self.layer_norm = nn.LayerNorm(out_width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear1(x)
        return self.layer_norm(x + self.linear2(F.gelu(x)))


class ClapTextEncoder(nn.Module):
    """BERT and the projection; parameters are named as in CLAP's `caption_encoder`.

    Args:
        config: a BertConfig of transformers.
    """

    def __init__(self, config: Any, width: int) -> None:
        from transformers import BertModel

        super().__init__()
        self.config = config
        self.base: Any = BertModel(config, add_pooling_layer=False)
        self.projection = Projection(config.hidden_size, width)
        with torch.device("cpu"):  # not among the weights, which may be filled in later
            places = torch.arange(config.max_position_embeddings)[None]
            buffers = {"position_ids": places, "token_type_ids": torch.zeros_like(places)}
        for name, value in buffers.items():
            self.base.embeddings.register_buffer(name, value, persistent=False)

    @property
    def width(self) -> int:
        return self.projection.linear2.out_features

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, L, D] of tokens [B, L]."""
        return self.projection(self.base(input_ids=tokens).last_hidden_state)


class TextTokens(nn.Module):
    """Texts as embeddings of a fixed number of tokens; no text has no entries.

    Args:
        tokenizer: of transformers.
        release: called after use, to give memory back.
    """

    def __init__(
        self,
        encoder: ClapTextEncoder,
        tokenizer: Any,
        *,
        num_tokens: int = NUM_TOKENS,
        release: Release = nothing,
    ) -> None:
        super().__init__()
        self._encoder = (encoder,)  # a tuple, since its weights are not the stage's
        self.tokenizer = tokenizer
        self.num_tokens = num_tokens
        self.release = release
        self.dim = encoder.width
        self.null = Null("none", self.dim)

    @property
    def encoder(self) -> ClapTextEncoder:
        return self._encoder[0]

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B texts."""
        none = self.null.embedding
        return stack([none if value is None else self.encode(value) for value in values])

    @cached_property
    def empty(self) -> Tensor:
        """The embeddings [L, D] of the empty text, in place of any prompt."""
        return self.encode("")

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """The embeddings [L, D] of a text."""
        device = self.encoder.projection.linear1.weight.device
        tokens = token_ids(self.tokenizer, checked_text(text), self.num_tokens)
        missing = self.num_tokens - tokens.shape[1]
        tokens = F.pad(tokens, (0, missing), value=self.tokenizer.pad_token_id)
        made = self.encoder(tokens.to(device))[0].float()
        self.release()
        return made
