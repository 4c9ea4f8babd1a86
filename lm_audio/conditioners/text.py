"""Text, through a T5 as it is or through an encoder of our own that is trained.

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
    """Texts to embeddings, in which a text does not depend on the others."""

    @property
    def dim(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Embeds each text: [L, E], with an L of its own, at least 1."""


class TextConditioner(nn.Module):
    """What an encoder makes of a text, projected to the width of the model.

    The empty string is a text; only None is the null.

    Args:
        project: False, as in checkpoints whose encoder has the width of the model already.
        word_dropout: how often in training only the first embedding of a text is left, for encoders
            that have the whole text in it: so that a model learns to make do with its meaning.
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
                f"The text encoder has width {encoder.dim} and the model {dim}; set project=True."
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
                raise ValueError(f"Got {value!r} as a text; give a string, or None for no text.")
        embeddings = self._encoded([value for value in values if value is not None])
        if self.training and self.word_dropout:
            alone = (torch.rand(len(embeddings)) < self.word_dropout).tolist()
            embeddings = [x[:1] if one else x for x, one in zip(embeddings, alone, strict=True)]
        encoded = iter(embeddings)
        null = self.null.embedding
        rows = [null if v is None else self.projection(next(encoded).to(null)) for v in values]
        return stack(rows)

    def _encoded(self, texts: Sequence[str]) -> list[Tensor]:
        """Training meets the same texts again and again, so those of a frozen encoder are kept."""
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
    """A T5 that is not trained: a conditioner that uses it neither saves it nor moves it.

    Texts are encoded one at a time, so that no text changes another.

    Args:
        max_length: longer texts are cut to this many tokens, with a warning.
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
    def load(cls, source: str | Path, *, device: torch.device | str = "cpu") -> "T5Encoder":
        """Reads a T5, or the encoder of one, from a folder or by its id from the hub."""
        from transformers import T5EncoderModel

        # Whole T5s are read too, without what follows their encoder.
        ignored = {"_keys_to_ignore_on_load_unexpected": ["decoder", "lm_head"]}
        encoder_of_any = type("T5EncoderModel", (T5EncoderModel,), ignored)
        try:
            model = load_transformers(encoder_of_any, source, kind="t5")
        except OSError as error:
            raise ValueError(
                f"There is no T5 that can be read at {source}; give a folder with config.json, "
                "model.safetensors and its tokenizer, or a hub id."
            ) from error
        return cls(model.to(device), T5TextTokenizer.load(source))

    def save(self, folder: str | Path) -> None:
        """Writes the encoder and its tokenizer for `load`, and for transformers."""
        self.model.save_pretrained(folder)
        self.tokenizer._tokenizer.save_pretrained(folder)

    @property
    def dim(self) -> int:
        return self.model.config.d_model

    @property
    def identity(self) -> str:
        """Names the weights and the tokenizer; equal identities give equal embeddings."""
        return f"t5-{hash_model(self.tokenizer.identity, self.model.state_dict())}"

    def to(self, device: torch.device | str) -> "T5Encoder":
        """Moves the T5, and returns this encoder."""
        self.model.to(device)
        return self

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> Tensor:
        device = self.model.device
        # What is kept serves later calls in any mode: training takes no inference tensors, and
        # autocast would let a text depend on who asked first.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            tokens = tokens_of([text], self.tokenizer, self.max_length).tokens.to(device)
            return self.model(input_ids=tokens).last_hidden_state[0]  # [L, E]


@dataclass(frozen=True, kw_only=True)
class OwnTextEncoderConfig:
    """The shape of a text encoder of our own.

    Args:
        vocab_size: that of its tokenizer.
        max_length: longer texts are cut to this many tokens, with a warning.
    """

    transformer: TransformerConfig
    vocab_size: int
    max_length: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.transformer, dict):  # as config.json has it
            object.__setattr__(self, "transformer", TransformerConfig(**self.transformer))
        if self.transformer.causal or self.transformer.cross_attention:
            raise ValueError(
                "A text encoder reads in both directions and attends to nothing else; "
                "set causal=False and cross_attention=False."
            )
        limit = self.transformer.num_positions or self.max_length
        if not 1 <= self.max_length <= limit:
            raise ValueError(f"max_length is {self.max_length}; use 1 to {limit} tokens.")


class OwnTextEncoder(nn.Module):
    """A two-sided transformer over our sentencepiece tokens, trained with the model.

    Its weights are saved with those of the model, its tokenizer by `tokenizer.save`.
    """

    def __init__(self, config: OwnTextEncoderConfig, tokenizer: SentencePieceTokenizer) -> None:
        super().__init__()
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(
                f"The text tokenizer has {tokenizer.vocab_size} tokens and the encoder "
                f"{config.vocab_size}; give the tokenizer that it was made for."
            )
        self.config = config
        self.tokenizer = tokenizer
        self.embedding = nn.Embedding(config.vocab_size, config.transformer.dim)
        self.transformer = Transformer(config.transformer)

    @property
    def dim(self) -> int:
        return self.config.transformer.dim

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        if torch.is_grad_enabled():  # training wants speed, the rest that no text changes another
            return self._encode(texts)
        return [self._encode([text])[0] for text in texts]

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        encoded = tokens_of(texts, self.tokenizer, self.config.max_length)
        device = self.embedding.weight.device
        tokens, mask = encoded.tokens.to(device), encoded.mask.to(device)
        x = self.transformer(self.embedding(tokens), mask=mask)  # [B, L, E]
        return [row[real] for row, real in zip(x, mask, strict=True)]


def tokens_of(texts: Sequence[str], tokenizer: TextTokenizer, max_length: int) -> TextTokens:
    """Tokens of texts, of which those that are too long are cut, with a warning."""
    whole = tokenizer.encode(texts)
    L = whole.tokens.shape[1]
    if max_length >= L:
        return whole
    warnings.warn(
        f"A text of {L} tokens is cut to {max_length}, the most that its encoder takes.",
        stacklevel=2,
    )
    return tokenizer.encode(texts, max_length=max_length)
