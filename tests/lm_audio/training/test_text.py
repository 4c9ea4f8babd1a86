"""Text conditioners for training: an encoder of a corpus's own words, or a T5 that all share."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.conditioners.text import OwnTextEncoder
from lm_audio.data.shards import Shards
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.training.text import captions, chosen_text, own_text, t5_text

READER = TransformerConfig(dim=16, num_layers=1, num_heads=2, hidden_dim=16, causal=False)


def test_all_captions_of_a_corpus_are_found(make_shards: Callable[..., Shards]) -> None:
    shards = make_shards([10, 10, 10])
    shards.conditions[1] = {"text": "one sound"}
    shards.conditions[2] = {"label": "x"}
    assert list(captions(shards)) == ["rain", "wind", "hail", "one sound"]


def test_a_new_encoder_knows_the_words_of_its_corpus(make_shards: Callable[..., Shards]) -> None:
    make = own_text(make_shards([10] * 5), READER, vocab_size=1000)
    first, second = make(24), make(8)
    assert (first.dim, second.dim) == (24, 8)
    assert first.encoder is not second.encoder, "each stage trains its own"
    assert first.encoder.tokenizer is second.encoder.tokenizer
    condition = first(["rain and wind", None])
    assert condition.embeddings.shape[-1] == 24
    condition.embeddings.sum().backward()
    assert first.encoder.embedding.weight.grad.abs().sum() > 0


def test_a_t5_is_shared_and_not_trained(tiny_t5: Path) -> None:
    make = t5_text(tiny_t5)
    first, second = make(24), make(8)
    assert first.encoder is second.encoder
    assert [name for name, _ in first.named_parameters()] == [
        "projection.weight", "projection.bias",
    ]  # fmt: skip
    assert first(["rain"]).embeddings.shape[-1] == 24
    assert not any(weight.requires_grad for weight in first.encoder.model.parameters())


def test_a_sentence_encoder_is_shared_and_not_trained(
    make_shards: Callable[..., Shards], sentence_folder: Path
) -> None:
    settings = {"vocab_size": 1000, "t5": None}
    shards = make_shards([10] * 5)
    make = chosen_text(shards, READER, text_encoder=sentence_folder, **settings)
    first, second = make(24), make(8)
    assert isinstance(first.encoder, SentenceEncoder)
    assert first.encoder is second.encoder
    assert len(list(first.parameters())) == 2
    own = chosen_text(shards, READER, text_encoder=None, **settings)(8)
    assert isinstance(own.encoder, OwnTextEncoder)


def test_two_encoders_of_one_text_are_refused(
    make_shards: Callable[..., Shards], tiny_t5: Path, sentence_folder: Path
) -> None:
    given = {"t5": str(tiny_t5), "text_encoder": sentence_folder}
    with pytest.raises(ValueError, match="--t5 and --text-encoder are mutually exclusive"):
        chosen_text(make_shards([10]), READER, vocab_size=1000, **given)


def test_data_without_captions_are_refused(make_shards: Callable[..., Shards]) -> None:
    shards = make_shards([10])
    shards.conditions[0] = {}
    with pytest.raises(ValueError, match="The data has no captions to train a tokenizer on"):
        own_text(shards, READER, vocab_size=100)


def test_a_causal_reader_is_refused(make_shards: Callable[..., Shards]) -> None:
    with pytest.raises(ValueError, match="needs a transformer with causal=False"):
        own_text(make_shards([10] * 5), replace(READER, causal=True), vocab_size=1000)
    assert torch.is_grad_enabled()
