"""A sentence encoder: what it makes of a text, alone and in company, and what it is saved as."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lm_audio.conditioners.sentence import (
    SentenceEncoder,
    SentenceModelConfig,
    sentence_embeddings,
)
from lm_audio.conditioners.text import TextConditioner
from lm_audio.networks.transformer import TransformerConfig

TEXTS = ["a dog barks", "sea", "birds sing in the rain over the sea"]
E = 24


@pytest.fixture
def encoder(sentence_folder: Path) -> SentenceEncoder:
    return SentenceEncoder.load(sentence_folder)


def test_a_sentence_stands_before_its_words_and_is_the_direction_of_their_mean(
    encoder: SentenceEncoder,
) -> None:
    for text, found in zip(TEXTS, encoder.encode(TEXTS), strict=True):
        L = encoder.tokenizer.encode([text]).tokens.shape[1]
        assert found.shape == (1 + L, E)
        mean = found[1:].mean(dim=0)
        torch.testing.assert_close(found[0], mean / mean.norm() * math.sqrt(E))


def test_padding_changes_no_sentence(encoder: SentenceEncoder) -> None:
    read = encoder.tokenizer.encode(TEXTS)
    together = sentence_embeddings(encoder.model(read.tokens, read.mask), read.mask)
    alone = torch.stack([x[0] for x in encoder.encode(TEXTS)]) / math.sqrt(E)
    torch.testing.assert_close(together, alone)


def test_a_text_is_the_same_in_any_company_and_mode(sentence_folder: Path) -> None:
    together = SentenceEncoder.load(sentence_folder).encode(TEXTS)
    for text, expected in zip(TEXTS, together, strict=True):
        fresh = SentenceEncoder.load(sentence_folder)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            alone = fresh.encode([text])[0]
        assert torch.equal(alone, expected)
        assert not alone.is_inference()


def test_it_is_neither_trained_nor_saved_with_the_conditioner(encoder: SentenceEncoder) -> None:
    conditioner = TextConditioner(encoder, 8)
    assert conditioner.state_dict().keys() == {"projection.weight", "projection.bias"}
    conditioner(["sea", None]).embeddings.sum().backward()
    assert not any(weight.requires_grad for weight in encoder.model.parameters())


def test_in_training_a_text_is_sometimes_its_sentence_alone(encoder: SentenceEncoder) -> None:
    torch.manual_seed(0)
    conditioner = TextConditioner(encoder, 8, word_dropout=0.5)
    texts = ["rain on a roof"] * 40 + [None]
    whole = conditioner.eval()(texts).mask.sum(dim=1).tolist()
    assert set(whole[:-1]) == {max(whole)}
    found = conditioner.train()(texts)
    lengths = found.mask.sum(dim=1).tolist()
    assert set(lengths[:-1]) == {1, max(whole)}
    assert 10 <= lengths[:-1].count(1) <= 30
    first = found.embeddings[:-1, 0]
    torch.testing.assert_close(first, first[:1].expand_as(first))


def test_saved_it_is_the_same_and_half_the_size_where_that_is_exact(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    encoder.save(tmp_path / "half")
    with torch.no_grad():
        encoder.model.head.bias.add_(1 / 3)
    changed = SentenceEncoder(encoder.model, encoder.tokenizer)
    changed.save(tmp_path / "whole")
    for name, dtype in (("half", torch.float16), ("whole", torch.float32)):
        weights = load_file(tmp_path / name / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {dtype}
    again = SentenceEncoder.load(tmp_path / "whole")
    assert again.identity == changed.identity
    assert SentenceEncoder.load(tmp_path / "half").identity != changed.identity
    assert torch.equal(again.encode(TEXTS)[2], changed.encode(TEXTS)[2])


def test_long_texts_are_cut_with_a_warning(encoder: SentenceEncoder) -> None:
    encoder.max_length = 4
    with pytest.warns(UserWarning, match="is truncated to 4, the limit of its encoder"):
        assert encoder.encode(["a dog barks in the rain"])[0].shape == (5, E)


def test_a_folder_without_a_whole_encoder_is_refused(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"has no readable config\.json"):
        SentenceEncoder.load(tmp_path)
    folder = tmp_path / "encoder"
    encoder.save(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({"head.bias": weights["head.bias"]}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="missing or unexpected weights: embedding"):
        SentenceEncoder.load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["transformer"]["num_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="fewer than 1000000000 layers"):
        SentenceEncoder.load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing"):
        SentenceEncoder.load(folder)


def test_shapes_that_cannot_be_are_refused(encoder: SentenceEncoder) -> None:
    causal = TransformerConfig(dim=16, num_layers=1, num_heads=2, hidden_dim=16)
    sizes = {"vocab_size": 300, "embedding_dim": 8, "sentence_dim": 24}
    with pytest.raises(ValueError, match="needs a transformer with causal=False"):
        SentenceModelConfig(transformer=causal, **sizes)
    shape = encoder.model.config.transformer
    with pytest.raises(ValueError, match="embedding_dim must be at least 1, got 0"):
        SentenceModelConfig(transformer=shape, **{**sizes, "embedding_dim": 0})
    other = type(encoder.model)(SentenceModelConfig(transformer=shape, **sizes))
    with pytest.raises(ValueError, match="has 280 tokens, but the encoder has 300"):
        SentenceEncoder(other, encoder.tokenizer)
