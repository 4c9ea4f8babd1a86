"""Text tokenizers, against sentencepiece and transformers themselves."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
from transformers import AutoTokenizer

from audio_tokenizers.text import SentencePieceTokenizer, T5TextTokenizer, TextTokenizer

CAPTIONS = [
    "a dog barks in the rain",
    "The wind howls over the sea",
    "birds sing at dawn",
    "Rain falls on a tin roof",
    "waves crash on rocks",
    "someone speaks softly",
] * 3


@pytest.fixture(scope="module")
def trained() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(CAPTIONS, 300)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 tokenizer as the hub stores it: tokenizer.json and its config."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_writer=model,
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("t5")
    (folder / "spiece.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    fast.decoder = tokenizers.decoders.Metaspace()
    fast.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(params=["sentencepiece", "t5"])
def tokenizer(
    request: pytest.FixtureRequest, trained: SentencePieceTokenizer, t5_folder: Path
) -> TextTokenizer:
    return trained if request.param == "sentencepiece" else T5TextTokenizer.load(t5_folder)


def test_texts_survive_the_round_trip(tokenizer: TextTokenizer) -> None:
    texts = ["a dog barks", "rain on the sea at dawn"]

    assert tokenizer.decode(tokenizer.encode(texts).tokens) == texts


def test_tokens_are_padded_behind_the_end_of_text(tokenizer: TextTokenizer) -> None:
    encoded = tokenizer.encode(["a dog barks in the rain", "", "birds"])

    assert encoded.tokens.dtype == torch.int64
    assert encoded.mask.dtype == torch.bool
    assert encoded.tokens.shape == encoded.mask.shape
    lengths = encoded.mask.sum(dim=1).tolist()
    assert max(lengths) == encoded.tokens.shape[1]
    assert lengths[1] == 1
    for row, mask, length in zip(encoded.tokens, encoded.mask, lengths, strict=True):
        assert row[length - 1] == tokenizer.eos_id
        assert (row[length:] == tokenizer.pad_id).all()
        assert mask[:length].all()
        assert not mask[length:].any()
    assert int(encoded.tokens.max()) < tokenizer.vocab_size


def test_batch_equals_single(tokenizer: TextTokenizer) -> None:
    texts = ["waves crash", "someone speaks softly in the rain", "a"]

    batch = tokenizer.encode(texts)

    for i, text in enumerate(texts):
        single = tokenizer.encode([text])
        assert torch.equal(batch.tokens[i][batch.mask[i]], single.tokens[0])
        assert single.mask.all()


def test_long_text_is_cut_and_still_ends(tokenizer: TextTokenizer) -> None:
    whole = tokenizer.encode(["a dog barks in the rain"]).tokens[0]

    for max_length in (1, 4, 1_000):
        tokens = tokenizer.encode(["a dog barks in the rain"], max_length=max_length).tokens[0]
        length = min(max_length, len(whole))
        assert tokens.tolist() == [*whole[: length - 1].tolist(), tokenizer.eos_id]


def test_bad_texts_are_refused(tokenizer: TextTokenizer) -> None:
    for texts in ("a dog", [], ""):
        with pytest.raises(ValueError, match="expected a list of at least one text"):
            tokenizer.encode(texts)
    with pytest.raises(ValueError, match=r"max_length must be at least 1, .* got 0"):
        tokenizer.encode(["a dog"], max_length=0)


def test_bad_text_tokens_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=r"of shape \[3\]; expected \[B, L\]"):
        tokenizer.decode(torch.zeros(3, dtype=torch.int64))
    for token in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"expected 0 to {tokenizer.vocab_size - 1}"):
            tokenizer.decode(torch.tensor([[token]]))


def test_training_twice_gives_the_same_tokenizer(trained: SentencePieceTokenizer) -> None:
    again = SentencePieceTokenizer.train(iter(CAPTIONS), 300)
    other = SentencePieceTokenizer.train(CAPTIONS, 299)

    assert again.identity == trained.identity
    assert other.identity != trained.identity
    assert (trained.vocab_size, other.vocab_size) == (300, 299)
    assert (trained.pad_id, trained.bos_id, trained.eos_id) == (0, 2, 3)


def test_case_and_width_do_not_matter(trained: SentencePieceTokenizer) -> None:
    plain = trained.encode(["a dog barks"]).tokens

    assert torch.equal(trained.encode(["A DOG  Barks"]).tokens, plain)
    assert torch.equal(trained.encode(["\uff41 dog barks"]).tokens, plain)


def test_unseen_characters_become_bytes(trained: SentencePieceTokenizer) -> None:
    texts = ["日本の雨", "naïve 🐕 42%"]

    encoded = trained.encode(texts)

    assert trained.decode(encoded.tokens) == texts
    assert not (encoded.tokens == 1).any()


def test_saved_tokenizer_is_the_same(trained: SentencePieceTokenizer, tmp_path: Path) -> None:
    trained.save(tmp_path / "text.model")
    loaded = SentencePieceTokenizer.load(tmp_path / "text.model")

    assert loaded.identity == trained.identity
    assert torch.equal(loaded.encode(CAPTIONS).tokens, trained.encode(CAPTIONS).tokens)
    assert [path.name for path in tmp_path.iterdir()] == ["text.model"]


def test_a_vocabulary_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"vocab_size must be above \d+, .* got 100"):
        SentencePieceTokenizer.train(CAPTIONS, 100)


def test_training_on_nothing_is_refused() -> None:
    for sentences in ([], ["", "  \n"]):
        with pytest.raises(ValueError, match="No text to train on"):
            SentencePieceTokenizer.train(sentences, 300)


def test_bad_model_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.model does not exist"):
        SentencePieceTokenizer.load(tmp_path / "gone.model")
    (tmp_path / "text.model").write_bytes(b"hello, world")
    with pytest.raises(ValueError, match=r"Cannot load .*: The data is not a sentencepiece model"):
        SentencePieceTokenizer.load(tmp_path / "text.model")
    (tmp_path / "empty.model").touch()
    with pytest.raises(ValueError, match=r"Cannot load .*: The sentencepiece model is empty"):
        SentencePieceTokenizer.load(tmp_path / "empty.model")


def test_model_without_padding_is_refused() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=model, vocab_size=40, minloglevel=2
    )

    with pytest.raises(ValueError, match="lacks a padding or end token"):
        SentencePieceTokenizer(model.getvalue())


def test_t5_tokens_are_those_of_transformers(t5_folder: Path) -> None:
    reference = AutoTokenizer.from_pretrained(t5_folder)
    texts = ["a dog barks", "Rain on the sea, loud", ""]

    for max_length in (None, 5):
        encoded = T5TextTokenizer.load(t5_folder).encode(texts, max_length=max_length)
        expected = reference(
            texts,
            padding="longest",
            truncation=max_length is not None,
            max_length=max_length,
            return_tensors="pt",
        )
        assert torch.equal(encoded.tokens, expected["input_ids"])
        assert torch.equal(encoded.mask, expected["attention_mask"].bool())


def test_t5_tokens_are_those_of_its_sentencepiece_model(t5_folder: Path) -> None:
    t5 = T5TextTokenizer.load(t5_folder)
    pieces = SentencePieceTokenizer.load(t5_folder / "spiece.model")

    texts = ["a dog barks", "waves crash on rocks"]
    assert torch.equal(t5.encode(texts).tokens, pieces.encode(texts).tokens)
    assert (t5.pad_id, t5.bos_id, t5.eos_id) == (0, None, 1)
    assert pieces.bos_id is None
    assert t5.vocab_size == pieces.vocab_size == 40


def test_t5_identity_depends_on_the_vocabulary(t5_folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (t5_folder / name).read_text()
        (tmp_path / name).write_text(text.replace('"k"', '"q"'))
    changed = (tmp_path / "tokenizer.json").read_bytes()
    assert changed != (t5_folder / "tokenizer.json").read_bytes()

    identity = T5TextTokenizer.load(t5_folder).identity
    assert identity == T5TextTokenizer.load(t5_folder).identity
    assert identity.startswith("t5-")
    assert identity != T5TextTokenizer.load(tmp_path).identity


def test_folder_without_a_t5_tokenizer_is_refused(t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Found no T5 tokenizer at"):
        T5TextTokenizer.load(tmp_path)
    with pytest.raises(ValueError, match="Found no T5 tokenizer at"):
        T5TextTokenizer.load(tmp_path / "gone" / "deep")
    text = (t5_folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    with pytest.raises(ValueError, match="lacks a padding or end token; pass a T5's"):
        T5TextTokenizer.load(tmp_path)


def test_a_vocabulary_that_is_too_large_may_be_taken_as_the_most() -> None:
    sentences = ["rain on a roof", "a dog barks"]
    tokenizer = SentencePieceTokenizer.train(sentences, 5000)
    assert 260 < tokenizer.vocab_size < 400
    assert tokenizer.decode(tokenizer.encode(sentences).tokens) == sentences
