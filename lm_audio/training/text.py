"""Text conditioners for training, around a new or a frozen encoder."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import nn

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.conditioners.text import (
    OwnTextEncoder,
    OwnTextEncoderConfig,
    T5Encoder,
    TextConditioner,
)
from lm_audio.data.shards import Shards
from lm_audio.networks.transformer import TransformerConfig

WORD_DROPOUT = 0.5  # with a sentence encoder


def captions(shards: Shards) -> Iterable[str]:
    """All captions of a corpus."""
    for conditions in shards.conditions:
        text = conditions.get("text", [])
        yield from text if isinstance(text, list) else [str(text)]


def chosen_text(
    shards: Shards,
    transformer: TransformerConfig,
    *,
    vocab_size: int,
    t5: str | None,
    text_encoder: Path | None,
) -> Callable[[int], nn.Module]:
    """Builds text conditioners around the given encoder, or around a new one by default.

    Args:
        transformer, vocab_size: of the new encoder, as in `own_text`.
        t5: a folder or hub id.
        text_encoder: a folder that `SentenceEncoder.save` wrote.
    """
    if t5 is not None and text_encoder is not None:
        raise ValueError("--t5 and --text-encoder are mutually exclusive.")
    if t5 is not None:
        return t5_text(t5)
    if text_encoder is not None:
        return sentence_text(text_encoder)
    return own_text(shards, transformer, vocab_size=vocab_size)


def own_text(
    shards: Shards, transformer: TransformerConfig, *, vocab_size: int
) -> Callable[[int], nn.Module]:
    """Builds text conditioners of a given width around a new encoder for a corpus's captions.

    Args:
        transformer: two-sided, without cross-attention.
        vocab_size: the maximum number of word pieces.
    """
    if not (sentences := list(captions(shards))):
        raise ValueError(
            "The data has no captions to train a tokenizer on. Add them during preparation, or "
            "train without text."
        )
    tokenizer = SentencePieceTokenizer.train(sentences, vocab_size)
    config = OwnTextEncoderConfig(transformer=transformer, vocab_size=tokenizer.vocab_size)
    return lambda dim: TextConditioner(OwnTextEncoder(config, tokenizer), dim)


def t5_text(source: str | Path) -> Callable[[int], nn.Module]:
    """Builds text conditioners of a given width around one T5 from a folder or the hub."""
    encoder = T5Encoder.load(source)
    return lambda dim: TextConditioner(encoder, dim)


def sentence_text(folder: str | Path) -> Callable[[int], nn.Module]:
    """Builds text conditioners of a given width around one sentence encoder from a folder.

    Half of the time they are trained with the sentence embedding alone, because unseen words are
    meaningless to a stage while their sentence embedding is not.
    """
    encoder = SentenceEncoder.load(folder)
    return lambda dim: TextConditioner(encoder, dim, word_dropout=WORD_DROPOUT)
