"""Text tokenizers: a sentencepiece tokenizer that we train, and T5's from transformers.

Shapes: B batch, L text tokens.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import sentencepiece
import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.hub import hub_access

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Text tokens [B, L], int64, padded at the end, and their mask [B, L], False on padding."""

    tokens: Tensor
    mask: Tensor


class TextTokenizer(Protocol):
    """Text to text tokens and back."""

    @property
    def identity(self) -> str:
        """Names the tokenizer and its vocabulary; equal identities give equal tokens."""

    @property
    def vocab_size(self) -> int:
        """Number of text tokens."""

    @property
    def pad_id(self) -> int: ...

    @property
    def bos_id(self) -> int | None:
        """None if the vocabulary has none, like T5's. `encode` never adds it."""

    @property
    def eos_id(self) -> int: ...

    def encode(self, texts: Sequence[str], *, max_length: int | None = None) -> TextTokens:
        """Turns B texts into tokens [B, L], each ending with the end-of-text token.

        Args:
            max_length: maximum number of tokens, end of text included; longer texts are truncated.
        """

    def decode(self, tokens: Tensor) -> list[str]:
        """Turns tokens [B, L] into B texts, without special tokens."""


class SentencePieceTokenizer:
    """A unigram vocabulary, trained on our captions.

    Text is NFKC-normalised and case-folded, since case carries no meaning in captions. Characters
    that training did not see become bytes, so nothing is unknown. Text tokens: 0 padding, 1 unknown
    (unused), 2 begin, 3 end, then 256 bytes, then pieces.

    Args:
        model: content of a sentencepiece `.model` file with padding and end tokens.
    """

    def __init__(self, model: bytes) -> None:
        if not model:
            raise ValueError("The sentencepiece model is empty; pass a complete .model file.")
        try:
            self._processor: Any = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(
                "The data is not a sentencepiece model; pass a complete .model file."
            ) from error
        if min(self._processor.pad_id(), self._processor.eos_id()) < 0:
            raise ValueError(
                "The sentencepiece model lacks a padding or end token; train it with both."
            )
        self._model = model

    @classmethod
    def train(cls, sentences: Iterable[str], vocab_size: int) -> "SentencePieceTokenizer":
        """Trains on `sentences`, all in memory; deterministic.

        Args:
            vocab_size: maximum number of text tokens, the 4 special ones and 256 bytes included;
                a small text gives fewer.
        """
        texts = [text for text in sentences if text.strip()]
        if not texts:
            raise ValueError("No text to train on; expected at least one sentence.")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                model_type="unigram",
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="nmt_nfkc_cf",
                max_sentence_length=1 << 20,  # longer ones are silently dropped
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                num_threads=1,  # the result depends on the number of threads
                minloglevel=2,
            )
        except RuntimeError as error:
            raise _vocab_size_error(vocab_size, error) from error
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> "SentencePieceTokenizer":
        """Reads a `.model` file."""
        if not Path(path).is_file():
            raise ValueError(
                f"{path} does not exist; pass the path of a sentencepiece .model file."
            )
        try:
            return cls(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"Cannot load {path}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes a `.model` file atomically."""
        with replacing(path) as temporary:
            temporary.write_bytes(self._model)

    @property
    def identity(self) -> str:
        return f"sentencepiece-{hashlib.sha256(self._model).hexdigest()}"

    @property
    def vocab_size(self) -> int:
        return self._processor.vocab_size()

    @property
    def pad_id(self) -> int:
        return self._processor.pad_id()

    @property
    def bos_id(self) -> int | None:
        bos_id: int = self._processor.bos_id()
        return None if bos_id < 0 else bos_id

    @property
    def eos_id(self) -> int:
        return self._processor.eos_id()

    def encode(self, texts: Sequence[str], *, max_length: int | None = None) -> TextTokens:
        _check_texts(texts, max_length)
        return _padded(self._processor.encode(list(texts)), self, max_length)

    def knows(self, text: str) -> bool:
        """Whether a text contains any piece of the vocabulary besides bytes and spaces."""
        pieces = self._processor
        return any(
            not pieces.is_byte(token) and pieces.id_to_piece(token) != "\u2581"  # a space
            for token in pieces.encode(text)
        )

    def decode(self, tokens: Tensor) -> list[str]:
        return [self._processor.decode(row) for row in _without_special(tokens, self)]


class T5TextTokenizer:
    """The case-sensitive tokenizer of a T5 text encoder.

    Args:
        tokenizer: from `transformers.AutoTokenizer`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer: Any = tokenizer

    @classmethod
    def load(cls, name_or_path: str | Path) -> "T5TextTokenizer":
        """Loads the tokenizer from a folder or hub id."""
        from transformers import AutoTokenizer

        try:
            with hub_access(name_or_path):
                tokenizer = AutoTokenizer.from_pretrained(
                    str(name_or_path), trust_remote_code=False
                )
        except Exception as error:  # the tokenizers library raises plain ones
            raise ValueError(
                f"Found no T5 tokenizer at {name_or_path}; pass a folder with tokenizer.json (or "
                "spiece.model, with protobuf installed), or a hub id."
            ) from error
        if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError(
                f"The tokenizer at {name_or_path} lacks a padding or end token; pass a T5's."
            )
        return cls(tokenizer)

    @property
    def identity(self) -> str:
        # The vocabulary only: the serialised tokenizer differs between versions.
        content = json.dumps(
            [self._tokenizer.get_vocab(), self.pad_id, self.eos_id], sort_keys=True
        )
        return f"t5-{hashlib.sha256(content.encode()).hexdigest()}"

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer)

    @property
    def pad_id(self) -> int:
        return self._tokenizer.pad_token_id

    @property
    def bos_id(self) -> int | None:
        return self._tokenizer.bos_token_id

    @property
    def eos_id(self) -> int:
        return self._tokenizer.eos_token_id

    def encode(self, texts: Sequence[str], *, max_length: int | None = None) -> TextTokens:
        _check_texts(texts, max_length)
        rows = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return _padded(rows, self, max_length)

    def decode(self, tokens: Tensor) -> list[str]:
        return [self._tokenizer.decode(row) for row in _without_special(tokens, self)]


def _check_texts(texts: Sequence[str], max_length: int | None) -> None:
    if isinstance(texts, str) or len(texts) == 0:
        raise ValueError(f"Got {texts!r}; expected a list of at least one text.")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, for the end of text, got {max_length}.")


def _padded(
    rows: Sequence[list[int]], tokenizer: TextTokenizer, max_length: int | None
) -> TextTokens:
    stop = None if max_length is None else max_length - 1
    ended = [[*row[:stop], tokenizer.eos_id] for row in rows]
    B, L = len(ended), max(len(row) for row in ended)
    tokens = torch.full((B, L), tokenizer.pad_id, dtype=torch.int64)
    mask = torch.zeros(B, L, dtype=torch.bool)
    for i, row in enumerate(ended):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = True
    return TextTokens(tokens=tokens, mask=mask)


def _without_special(tokens: Tensor, tokenizer: TextTokenizer) -> list[list[int]]:
    if tokens.dim() != 2:
        raise ValueError(f"Got text tokens of shape {list(tokens.shape)}; expected [B, L].")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < tokenizer.vocab_size:
        raise ValueError(
            f"Got text tokens from {int(tokens.min())} to {int(tokens.max())}; expected 0 to "
            f"{tokenizer.vocab_size - 1}."
        )
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    return [[token for token in row if token not in special] for row in tokens.tolist()]


def _vocab_size_error(vocab_size: int, error: RuntimeError) -> ValueError:
    """Rewords sentencepiece's error about a vocabulary size that does not fit."""
    if least := re.search(r"required_chars\. \d+ vs (\d+)", str(error)):
        return ValueError(
            f"vocab_size must be above {least[1]}, the number of bytes and characters, got "
            f"{vocab_size}."
        )
    return ValueError(f"Training on the text failed: {error}; change the text or vocab_size.")
