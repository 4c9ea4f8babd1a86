"""T5Gemma, the text encoder of Stable Audio 3, through transformers.

Shapes: L text tokens, D width.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lm_audio.saving.text_models import load_text_model, load_tokenizer, token_limit


class GemmaEncoder:
    """A frozen T5Gemma encoder.

    Texts are encoded one at a time, so that they do not affect each other.

    Args:
        max_length: longer texts are truncated to this many tokens, with a warning.
    """

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def load(cls, model: Path, tokenizer: Path, *, max_length: int) -> "GemmaEncoder":
        """Reads the folders of an encoder and of its tokenizer."""
        from transformers import T5GemmaEncoderModel

        encoder = load_text_model(T5GemmaEncoderModel, model, kind="t5gemma")
        tokens = load_tokenizer(tokenizer)
        return cls(encoder, tokens, max_length=min(token_limit(tokens), max_length))

    @property
    def dim(self) -> int:
        return int(self.model.config.encoder.hidden_size)

    def to(self, device: torch.device | str) -> "GemmaEncoder":
        """Moves the model, and returns this encoder."""
        self.model.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Embeds each text: [L, D]."""
        return [self._encode(text) for text in texts]

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) > self.max_length:
            warnings.warn(
                f"A text of {len(ids)} tokens is truncated to {self.max_length}, the limit of its "
                "encoder.",
                stacklevel=2,
            )
            ids = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        tokens = torch.tensor([ids], device=self.model.device)
        return self.model(input_ids=tokens).last_hidden_state[0].float()
