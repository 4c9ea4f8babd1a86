"""Text encoders: T5 against transformers' MusicGen, our own against itself in batches."""

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    EncodecConfig,
    EncodecModel,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForCausalLM,
    MusicgenForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners import text
from lm_audio.conditioners.text import (
    OwnTextEncoder,
    OwnTextEncoderConfig,
    T5Encoder,
    TextConditioner,
    TextEncoder,
)
from lm_audio.networks.transformer import TransformerConfig

CAPTIONS = [
    "a dog barks in the rain",
    "The wind howls over the sea",
    "birds sing at dawn",
    "Rain falls on a tin roof",
    "waves crash on rocks",
    "someone speaks softly",
] * 3
TEXTS = ["a dog barks in the rain", "", "sea", "Rain falls on a tin roof at dawn"]
WIDTH = 16


def t5_config(**settings: object) -> T5Config:
    sizes: dict[str, object] = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_heads": 2}
    return T5Config(vocab_size=40, num_layers=2, decoder_start_token_id=0, **sizes, **settings)


@pytest.fixture(scope="module")
def trained() -> SentencePieceTokenizer:
    return SentencePieceTokenizer.train(CAPTIONS, 300)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 encoder with its tokenizer, as transformers saves them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=model, vocab_size=40, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    fast = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    folder = tmp_path_factory.mktemp("t5")
    fast.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "extra_ids": 0}
    config = {"tokenizer_class": "T5Tokenizer", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    T5EncoderModel(t5_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def t5(t5_folder: Path) -> T5Encoder:
    return T5Encoder.load(t5_folder)


@pytest.fixture
def own(trained: SentencePieceTokenizer) -> OwnTextEncoder:
    return OwnTextEncoder(own_config(), trained).eval()


def own_config(**settings: object) -> OwnTextEncoderConfig:
    transformer = TransformerConfig(
        dim=WIDTH, num_layers=2, num_heads=2, hidden_dim=32, causal=False
    )
    return OwnTextEncoderConfig(**{"transformer": transformer, "vocab_size": 300, **settings})


@pytest.fixture(params=["t5", "own"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    return request.getfixturevalue(request.param)


def test_text_is_what_transformers_makes_of_it_for_musicgen(t5: T5Encoder) -> None:
    decoder = MusicgenDecoderConfig(
        vocab_size=8, num_hidden_layers=1, ffn_dim=8, num_attention_heads=2, hidden_size=8,
        num_codebooks=1,
    )  # fmt: skip
    codec = EncodecConfig(num_filters=2, hidden_size=8, codebook_size=8, codebook_dim=8)
    parts = {"text_encoder": t5.model.config, "audio_encoder": codec, "decoder": decoder}
    configs = {name: config.to_dict() for name, config in parts.items()}
    musicgen = MusicgenForConditionalGeneration(
        config=MusicgenConfig(**configs),
        text_encoder=copy.deepcopy(t5.model),
        audio_encoder=EncodecModel(codec),
        decoder=MusicgenForCausalLM(decoder),
    ).eval()
    conditioner = TextConditioner(t5, 8)
    assert isinstance(conditioner.projection, nn.Linear)
    conditioner.projection.load_state_dict(musicgen.enc_to_dec_proj.state_dict())
    tokens = t5.tokenizer.encode(TEXTS)
    seen: list[dict[str, torch.Tensor]] = []
    musicgen.decoder.register_forward_pre_hook(
        lambda _, __, given: seen.append(given), with_kwargs=True
    )

    with torch.no_grad():
        condition = conditioner(TEXTS)
        musicgen(
            input_ids=tokens.tokens,
            attention_mask=tokens.mask.long(),
            decoder_input_ids=torch.zeros(len(TEXTS), 1, dtype=torch.int64),
        )

    expected = seen[0]["encoder_hidden_states"]
    torch.testing.assert_close(condition.embeddings, expected, rtol=0, atol=1e-6)
    assert torch.equal(condition.mask, tokens.mask)


def test_a_text_does_not_depend_on_its_batch(encoder: TextEncoder) -> None:
    conditioner = TextConditioner(encoder, 8).eval()

    with torch.inference_mode():
        condition = conditioner([*TEXTS, None])
        for b, text in enumerate([*TEXTS, None]):
            alone = conditioner([text])
            assert alone.mask.all()
            assert torch.equal(alone.embeddings[0], condition.embeddings[b, condition.mask[b]])
            assert not condition.embeddings[b, ~condition.mask[b]].any()


def test_only_none_is_the_null(encoder: TextEncoder) -> None:
    for null in ("zero", "learned"):
        conditioner = TextConditioner(encoder, 8, null=null)  # type: ignore[arg-type]
        condition = conditioner([None, ""])
        assert condition.mask.tolist() == [[True], [True]]
        assert torch.equal(condition.embeddings[0], conditioner.null.embedding)
        assert condition.embeddings[1].any()
        assert not torch.equal(condition.embeddings[0], condition.embeddings[1])


def test_without_projection_the_encoder_speaks_itself(encoder: TextEncoder) -> None:
    conditioner = TextConditioner(encoder, WIDTH, project=False)

    condition = conditioner(["sea"])

    assert torch.equal(condition.embeddings[0], encoder.encode(["sea"])[0])
    assert not [name for name in conditioner.state_dict() if "projection" in name]
    with pytest.raises(ValueError, match="has width 16, but the model 8"):
        TextConditioner(encoder, 8, project=False)


def test_what_is_no_text_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="must be a string, or None, got 3"):
        TextConditioner(encoder, 8)(["sea", 3])


def test_long_texts_are_cut_with_a_warning(t5: T5Encoder, trained: SentencePieceTokenizer) -> None:
    short_t5 = T5Encoder(t5.model, t5.tokenizer, max_length=4)
    short_own = OwnTextEncoder(own_config(max_length=4), trained)
    for encoder in (short_t5, short_own):
        message = r"A text of \d+ tokens is truncated to 4, the limit of its encoder"
        with pytest.warns(UserWarning, match=message):
            embedded = encoder.encode(["a dog barks in the rain"])[0]
        assert embedded.shape == (4, WIDTH)
    tokens = t5.tokenizer.encode(["a dog barks in the rain"], max_length=4).tokens
    expected = t5.model(input_ids=tokens).last_hidden_state[0]
    torch.testing.assert_close(short_t5.encode(["a dog barks in the rain"])[0], expected)


def test_t5_is_neither_trained_nor_saved_with_the_conditioner(t5: T5Encoder) -> None:
    conditioner = TextConditioner(t5, 8, null="learned")

    assert conditioner.state_dict().keys() == {
        "projection.weight", "projection.bias", "null.embedding",
    }  # fmt: skip
    assert len(list(conditioner.parameters())) == 3
    conditioner(["sea", None]).embeddings.sum().backward()
    assert all(weight.grad is not None for weight in conditioner.parameters())
    assert not any(weight.requires_grad for weight in t5.model.parameters())


def test_saved_t5_is_the_same(t5: T5Encoder, tmp_path: Path) -> None:
    t5.save(tmp_path)
    loaded = T5Encoder.load(tmp_path, device="cpu")

    assert loaded.tokenizer.identity == t5.tokenizer.identity
    for again, once in zip(loaded.encode(TEXTS), t5.encode(TEXTS), strict=True):
        assert torch.equal(again, once)
    assert not list(tmp_path.glob("*.bin"))
    assert isinstance(T5EncoderModel.from_pretrained(tmp_path), T5EncoderModel)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["T5EncoderModel"]


@pytest.mark.parametrize(
    "settings", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}]
)
def test_the_encoder_of_a_whole_t5_is_read(
    t5: T5Encoder, tmp_path: Path, settings: dict[str, object]
) -> None:
    t5.save(tmp_path)
    whole = T5ForConditionalGeneration(t5_config(**settings)).eval()
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = torch.randn(40, WIDTH)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})

    embedded = T5Encoder.load(tmp_path).encode(["birds sing"])[0]

    tokens = t5.tokenizer.encode(["birds sing"]).tokens
    expected = whole.get_encoder()(input_ids=tokens).last_hidden_state[0]
    torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-5)


def test_a_folder_without_a_whole_t5_is_refused(t5: T5Encoder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No such file or folder: .*gone"):
        T5Encoder.load(tmp_path / "gone")
    t5.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing or unexpected .*: encoder.final_layer_norm"):
        T5Encoder.load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(ValueError, match="a model of type bert; expected type t5"):
        T5Encoder.load(tmp_path)


def test_a_text_is_encoded_alike_in_every_mode(t5: T5Encoder) -> None:
    conditioner = TextConditioner(t5, 8)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        first = t5.encode(["sea"])[0]

    assert torch.equal(first, t5.encode(["sea"])[0])
    conditioner(["sea"]).embeddings.sum().backward()  # it takes no inference tensor


def test_texts_are_encoded_once_in_training_and_never_kept_otherwise(
    t5: T5Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = t5.encode

    def watch(texts: Sequence[str]) -> list[Tensor]:
        encoded.extend(texts)
        return encode(texts)

    monkeypatch.setattr(t5, "encode", watch)
    conditioner = TextConditioner(t5, 8).train()
    first = conditioner(["sea", "rain", "sea"]).embeddings
    assert torch.equal(conditioner(["sea", "rain", "sea"]).embeddings, first)
    assert encoded == ["sea", "rain"]
    conditioner.eval()(["sea", "rain"])
    assert encoded == ["sea", "rain"] * 2


def test_training_keeps_the_last_texts_only(t5: T5Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MOST_KEPT", 2)
    conditioner = TextConditioner(t5, 8).train()
    for one in ("sea", "rain", "dawn", "sea"):
        conditioner([one])
    assert len(conditioner._kept) <= 3


def test_embeddings_go_to_the_type_of_the_conditioner(t5: T5Encoder) -> None:
    conditioner = TextConditioner(t5, 8).to(torch.bfloat16)

    assert conditioner(["sea", None]).embeddings.dtype == torch.bfloat16
    assert t5.encode(["sea"])[0].dtype == torch.float32


def test_our_encoder_is_trained_and_saved_with_the_conditioner(own: OwnTextEncoder) -> None:
    conditioner = TextConditioner(own, 8)

    conditioner(["a dog barks", "sea"]).embeddings.square().sum().backward()

    assert all(weight.grad is not None for weight in conditioner.parameters())
    names = conditioner.state_dict().keys()
    assert {f"encoder.{name}" for name in own.state_dict()} < names
    copied = TextConditioner(OwnTextEncoder(own.config, own.tokenizer), 8)
    copied.load_state_dict(conditioner.state_dict())
    with torch.no_grad():
        assert torch.equal(copied(TEXTS).embeddings, conditioner(TEXTS).embeddings)


def test_our_encoder_trains_on_batches_as_on_single_texts(own: OwnTextEncoder) -> None:
    batch = own.encode(TEXTS)
    with torch.no_grad():
        single = own.encode(TEXTS)

    for row, alone in zip(batch, single, strict=True):
        assert row.requires_grad
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-5)


def test_our_encoder_reads_in_both_directions(own: OwnTextEncoder) -> None:
    with torch.no_grad():
        one, other = own.encode(["a dog barks", "a dog howls"])

    assert not torch.allclose(one[0], other[0], atol=1e-4)


def test_our_encoder_wants_its_own_tokenizer_and_a_shape_that_fits(
    trained: SentencePieceTokenizer,
) -> None:
    with pytest.raises(ValueError, match="has 300 tokens, but the encoder has 299"):
        OwnTextEncoder(own_config(vocab_size=299), trained)
    causal = TransformerConfig(dim=WIDTH, num_layers=1, num_heads=2, hidden_dim=32)
    with pytest.raises(ValueError, match=r"needs a transformer with causal=False and"):
        own_config(transformer=causal)
    learned = TransformerConfig(
        dim=WIDTH, num_layers=1, num_heads=2, hidden_dim=32, causal=False, positions="learned",
        num_positions=8,
    )  # fmt: skip
    for max_length in (0, 9):
        with pytest.raises(ValueError, match=rf"max_length must be from 1 to 8, got {max_length}"):
            own_config(transformer=learned, max_length=max_length)


def test_our_encoder_is_configured_by_what_json_gives() -> None:
    config = own_config()
    fields = {"transformer": vars(config.transformer), "vocab_size": 300}

    assert OwnTextEncoderConfig(**fields) == config
