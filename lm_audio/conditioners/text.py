"""Text, through a frozen T5 or through an encoder that is trained with the model.

Shapes: B batch, L text tokens, E width of the encoder, D width.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from audio_tokenizers.identity import hash_model
from audio_tokenizers.text import (
    SentencePieceTokenizer,
    T5TextTokenizer,
    TextTokenizer,
    TextTokens,
)
from audio_tokenizers.weights import load_transformers
from lm_audio.conditioners.condition import Null, NullKind
from lm_audio.networks.condition import Condition, stack
from lm_audio.networks.transformer import Transformer, TransformerConfig

if TYPE_CHECKING:
    from transformers import T5EncoderModel


MOST_KEPT = 4096  # texts while training, 25 to 100 kB each


class TextEncoder(Protocol):
    """Embeds texts independently of each other."""

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Embeds each text: [L, E], with an L of its own, at least 1."""


class TextConditioner(nn.Module):
    """A text embedding, projected to the width of the model.

    The empty string is a text; only None is the null.

    Args:
        project: False for checkpoints whose encoder already has the width of the model.
        word_dropout: the probability in training that only a text's first embedding is kept, for
            encoders whose first embedding represents the whole text.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        dim: int,
        *,
        null: NullKind = "zero",
        project: bool = True,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not project and encoder.dim != dim:
            raise ValueError(
                f"The text encoder has width {encoder.dim}, but the model {dim}. Set project=True."
            )
        self.encoder = encoder
        self.dim = dim
        self.null = Null(null, dim)
        self.projection = nn.Linear(encoder.dim, dim) if project else nn.Identity()
        self.word_dropout = word_dropout
        self._kept: dict[str, Tensor] = {}

    def forward(self, values: Sequence[str | None]) -> Condition:
        """Embeds B texts."""
        for value in values:
            if not isinstance(value, str | None):
                raise ValueError(f"A text prompt must be a string, or None, got {value!r}.")
        embeddings = self._encoded([value for value in values if value is not None])
        if self.training and self.word_dropout:
            alone = (torch.rand(len(embeddings)) < self.word_dropout).tolist()
            embeddings = [x[:1] if one else x for x, one in zip(embeddings, alone, strict=True)]
        encoded = iter(embeddings)
        null = self.null.embedding
        rows = [null if v is None else self.projection(next(encoded).to(null)) for v in values]
        return stack(rows)

    def _encoded(self, texts: Sequence[str]) -> list[Tensor]:
        """Encodes texts; training repeats them, so a frozen encoder's results are cached."""
        if not texts:
            return []
        if not self.training or isinstance(self.encoder, nn.Module):
            return self.encoder.encode(texts)
        while len(self._kept) > MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        for text in texts:
            if text not in self._kept:
                (self._kept[text],) = self.encoder.encode([text])
        return [self._kept[text] for text in texts]


class T5Encoder:
    """A frozen T5, which conditioners do not save or move.

    Texts are encoded one at a time, so that they do not affect each other.

    Args:
        max_length: longer texts are truncated to this many tokens, with a warning.
    """

    def __init__(
        self,
        model: "T5EncoderModel",
        tokenizer: T5TextTokenizer,
        *,
        max_length: int = 512,
    ) -> None:
        self.model = cast(Any, model).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_length = max_length

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        max_length: int = 512,
        device: torch.device | str = "cpu",
    ) -> "T5Encoder":
        """Reads a T5, or only its encoder, from a folder or the hub."""
        from transformers import T5EncoderModel

        # The decoder of a complete T5 is skipped.
        ignored = {"_keys_to_ignore_on_load_unexpected": ["decoder", "lm_head"]}
        encoder_of_any = type("T5EncoderModel", (T5EncoderModel,), ignored)
        try:
            model = load_transformers(encoder_of_any, source, kind="t5")
        except OSError as error:
            raise ValueError(
                f"Could not read a T5 from {source}. Give a folder with config.json, "
                "model.safetensors and its tokenizer, or a hub id."
            ) from error
        return cls(model.to(device), T5TextTokenizer.load(source), max_length=max_length)

    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer for `load`, and for transformers."""
        self.model.save_pretrained(folder)
        self.tokenizer._tokenizer.save_pretrained(folder)

    @property
    def dim(self) -> int:
        return self.model.config.d_model

    @property
    def identity(self) -> str:
        """Identifies weights and tokenizer; equal identities give equal embeddings."""
        return f"t5-{hash_model(self.tokenizer.identity, self.model.state_dict())}"

    def to(self, device: torch.device | str) -> "T5Encoder":
        """Moves the T5, and returns this encoder."""
        self.model.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Tensor:
        device = self.model.device
        # Cached results serve later calls in any mode: training cannot use inference tensors, and
        # under autocast a result would depend on the first caller.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            tokens = tokens_of([text], self.tokenizer, self.max_length).tokens.to(device)
            return self.model(input_ids=tokens).last_hidden_state[0]  # [L, E]


@dataclass(frozen=True, kw_only=True)
class OwnTextEncoderConfig:
    """The shape of a trainable text encoder.

    Args:
        vocab_size: of its tokenizer.
        max_length: longer texts are truncated to this many tokens, with a warning.
    """

    transformer: TransformerConfig
    vocab_size: int
    max_length: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.transformer, dict):  # as config.json has it
            object.__setattr__(self, "transformer", TransformerConfig(**self.transformer))
        if self.transformer.causal or self.transformer.cross_attention:
            raise ValueError(
                "A text encoder needs a transformer with causal=False and cross_attention=False."
            )
        limit = self.transformer.num_positions or self.max_length
        if not 1 <= self.max_length <= limit:
            raise ValueError(f"max_length must be from 1 to {limit}, got {self.max_length}.")


class OwnTextEncoder(nn.Module):
    """A two-sided transformer over sentencepiece tokens, trained with the model.

    Its weights are saved with the model's, its tokenizer by `tokenizer.save`.
    """

    def __init__(self, config: OwnTextEncoderConfig, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__()
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"The text tokenizer has {tokenizer.vocab_size} tokens, but the encoder has "
                f"{config.vocab_size}. Use the tokenizer that it was trained with."
            )
        self.config = config
        self.tokenizer = tokenizer
        self.embedding = nn.Embedding(config.vocab_size, config.transformer.dim)
        self.transformer = Transformer(config.transformer)

    @property
    def dim(self) -> int:
        return self.config.transformer.dim

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        if torch.is_grad_enabled():  # in one batch; otherwise texts must not affect each other
            return self._encode(texts)
        return [self._encode([text])[0] for text in texts]

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        encoded = tokens_of(texts, self.tokenizer, self.config.max_length)
        device = self.embedding.weight.device
        tokens, mask = encoded.tokens.to(device), encoded.mask.to(device)
        x = self.transformer(self.embedding(tokens), mask=mask)  # [B, L, E]
        return [row[real] for row, real in zip(x, mask, strict=True)]


def tokens_of(texts: Sequence[str], tokenizer: TextTokenizer, max_length: int) -> TextTokens:
    """The tokens of texts; those that are too long are truncated, with a warning."""
    whole = tokenizer.encode(texts)
    L = whole.tokens.shape[1]
    if max_length >= L:
        return whole
    warnings.warn(
        f"A text of {L} tokens is truncated to {max_length}, the limit of its encoder.",
        stacklevel=2,
    )
    return tokenizer.encode(texts, max_length=max_length)
