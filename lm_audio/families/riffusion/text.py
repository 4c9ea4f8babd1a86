"""The conditioner of Riffusion: text through CLIP.

Each text is padded to the length that Stable Diffusion was trained with. A text that is missing or
dropped is the empty text, as in training. Words in parentheses may have weights, as users of Stable
Diffusion write them: their embeddings are multiplied, and all scaled so that the mean stays.

Shapes: B batch, L tokens, D width.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.pretrained_text import checked_text, token_ids
from lm_audio.networks.condition import Condition, stack

_WEIGHTED = re.compile(r"\(([^():]+):(\d+(?:\.\d+)?)\)")


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
        """Embeds a text, such as "(jazz:1.2) with rain": [L, D]."""
        tokens, weights = self._tokens(text)
        missing = self.length - tokens.shape[1]
        tokens = F.pad(tokens, (0, missing), value=self.tokenizer.pad_token_id)
        device = self.null.embedding.device
        found: Tensor = self.model(tokens.to(device)).last_hidden_state[0].float()
        if weights is None:
            return found
        weighted = found * F.pad(weights, (0, missing), value=1.0).to(device)[:, None]
        return weighted * (found.mean() / weighted.mean())

    def _tokens(self, text: str) -> tuple[Tensor, Tensor | None]:
        """The tokens [1, L] of a text, and their weights [L] if it has some."""
        if not _WEIGHTED.search(text):
            return token_ids(self.tokenizer, text, self.length), None
        pieces = weighted_pieces(text)
        words = " ".join(piece for piece, _ in pieces)
        tokens = token_ids(self.tokenizer, words, self.length)
        weights = [1.0]  # of the start
        for piece, weight in pieces:
            count = len(self.tokenizer(piece, add_special_tokens=False).input_ids)
            weights += [weight] * count
        inner = weights[: tokens.shape[1] - 1]
        return tokens, torch.tensor([*inner, *[1.0] * (tokens.shape[1] - len(inner))])


def weighted_pieces(text: str) -> list[tuple[str, float]]:
    """The pieces of a text and their weights: "(jazz:1.2) with rain" has 1.2 and 1."""
    pieces: list[tuple[str, float]] = []
    end = 0
    for found in _WEIGHTED.finditer(text):
        pieces += [(text[end : found.start()], 1.0), (found[1], float(found[2]))]
        end = found.end()
    pieces.append((text[end:], 1.0))
    return [(piece.strip(), weight) for piece, weight in pieces if piece.strip()]
