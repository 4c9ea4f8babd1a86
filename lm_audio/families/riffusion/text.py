"""The conditioner of Riffusion: text through CLIP.

Each text is padded to the length that Stable Diffusion was trained with. A text that is missing or
dropped is the empty text, as in training.

Shapes: B batch, L tokens, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.pretrained_text import checked_text, token_ids
from lm_audio.networks.condition import Condition, stack


class ClipText(nn.Module):
    """Texts as the last hidden states of CLIP.

    Args:
        model: a CLIPTextModel of transformers.
        length: of every text, in tokens.
    """

    def __init__(self, model: Any, tokenizer: Any, *, length: int) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.length = length
        self.dim = int(model.config.hidden_size)
        self.null = Null("none", self.dim)

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B texts; None is the empty text."""
        return stack([self.encode(checked_text(value)) for value in values])

    @torch.no_grad()
    def encode(self, text: str) -> Tensor:
        """Embeds a text: [L, D]."""
        tokens = token_ids(self.tokenizer, text, self.length)
        missing = self.length - tokens.shape[1]
        tokens = F.pad(tokens, (0, missing), value=self.tokenizer.pad_token_id)
        found: Tensor = self.model(tokens.to(self.null.embedding.device)).last_hidden_state
        return found[0].float()
