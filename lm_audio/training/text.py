"""Text conditioners to be trained with a stage, or around an encoder that is not."""

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

WORD_DROPOUT = 0.5  # beside a sentence encoder


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
    """Makes text conditioners around the encoder that is given, by default around a new one.

    Args:
        transformer, vocab_size: as in `own_text`, of the new one.
        t5: a folder or hub id.
        text_encoder: a folder that `SentenceEncoder.save` wrote.
    """
    if t5 is not None and text_encoder is not None:
        raise ValueError("Got --t5 and --text-encoder, and one encoder reads text; leave one out.")
    if t5 is not None:
        return t5_text(t5)
    if text_encoder is not None:
        return sentence_text(text_encoder)
    return own_text(shards, transformer, vocab_size=vocab_size)


def own_text(
    shards: Shards, transformer: TransformerConfig, *, vocab_size: int
) -> Callable[[int], nn.Module]:
    """Makes text conditioners of a width, around a new encoder of the words of a corpus.

    Args:
        transformer: two-sided, without cross-attention.
        vocab_size: the most word pieces; fewer where the captions hold no more.
    """
    if not (sentences := list(captions(shards))):
        raise ValueError(
            "The data has no captions to learn words from; add them when it is prepared, or "
            "train without text."
        )
    tokenizer = SentencePieceTokenizer.train(sentences, vocab_size)
    config = OwnTextEncoderConfig(transformer=transformer, vocab_size=tokenizer.vocab_size)
    return lambda dim: TextConditioner(OwnTextEncoder(config, tokenizer), dim)


def t5_text(source: str | Path) -> Callable[[int], nn.Module]:
    """Makes text conditioners of a width, all around one T5 from a folder or the hub."""
    encoder = T5Encoder.load(source)
    return lambda dim: TextConditioner(encoder, dim)


def sentence_text(folder: str | Path) -> Callable[[int], nn.Module]:
    """Makes text conditioners of a width, all around one sentence encoder from a folder.

    Half the time they learn from the sentence alone: words that no caption had mean nothing to a
    stage, and what the encoder makes of their sentence does.
    """
    encoder = SentenceEncoder.load(folder)
    return lambda dim: TextConditioner(encoder, dim, word_dropout=WORD_DROPOUT)
