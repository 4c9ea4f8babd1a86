"""Our own folder: what is saved is what is loaded, to the bit, or one sentence says why not."""

import io
import json
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
from transformers import T5Config, T5EncoderModel

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.clip import Clip
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.text import (
    OwnTextEncoder,
    OwnTextEncoderConfig,
    TextConditioner,
)
from lm_audio.models.token_lm import TokenLM, TokenLMConfig
from lm_audio.modules.transformer import TransformerConfig
from lm_audio.patterns import delayed, stereo
from lm_audio.pipeline import AudioPipeline
from lm_audio.pipeline.folder import load_pipeline
from lm_audio.pipeline.stage_folder import describe_stage
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from lm_audio.stages.audiogen import audiogen
from lm_audio.stages.audiolm import RENDERED, audiolm
from lm_audio.stages.ours import ours
from lm_audio.stages.stage import Stage

CAPTIONS = [
    "a dog barks in the rain",
    "The wind howls over the sea",
    "birds sing at dawn",
    "Rain falls on a tin roof",
    "waves crash on rocks",
] * 3
NUM_SEMANTIC = 20


def transformer(**settings: object) -> TransformerConfig:
    sizes: dict[str, object] = {"dim": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 64}
    return TransformerConfig(**{**sizes, **settings})


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def codec() -> FrameCodec:
    codec = FrameCodec(tiny_codec()).eval().requires_grad_(False)
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    return codec


@pytest.fixture(scope="module")
def own_text() -> Callable[[int], TextConditioner]:
    tokenizer = SentencePieceTokenizer.train(CAPTIONS, 290)
    shape = transformer(dim=16, num_layers=1, causal=False)
    config = OwnTextEncoderConfig(transformer=shape, vocab_size=290, max_length=9)
    return lambda dim: TextConditioner(OwnTextEncoder(config, tokenizer), dim, null="learned")


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
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "T5Tokenizer", **names})
    )
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 1}
    T5EncoderModel(T5Config(vocab_size=40, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def semantic_tokenizer() -> FeatureTokenizer:
    torch.manual_seed(0)
    model = MaskedAudioModel(tiny_masked_model()).eval()
    features = model.features(torch.randn(1, 1, 48_000), 1)[0]
    codebook = KMeansCodebook(
        centroids=torch.randn(NUM_SEMANTIC, model.width),
        mean=features.mean(0),
        std=features.std(0),
        source=FeatureSource(model=model.identity, layer=1),
    )
    return FeatureTokenizer(model, codebook)


def make_ours(codec: FrameCodec, text: Callable[[int], TextConditioner]) -> AudioPipeline:
    shape = transformer(cross_attention=True)
    stages = ours(
        semantic=shape,
        acoustic=shape,
        text=text,
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(25),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
    )
    return AudioPipeline(stages, CodecRenderer(codec))


def make_audiolm(codec: FrameCodec, semantic: FeatureTokenizer) -> AudioPipeline:
    stages = audiolm(
        transformer(positions="relative", norm="layer", activation="gelu"),
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(25),
        num_coarse=2,
        num_fine=codec.num_codebooks - 2,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
    )
    return AudioPipeline(
        stages, CodecRenderer(codec), rendered=RENDERED, semantic_tokenizer=semantic
    )


def make_audiogen(codec: FrameCodec, conditioners: Conditioners) -> AudioPipeline:
    """In stereo, with every setting of its only stage other than by default."""
    shape = transformer(positions="sinusoidal", cross_attention=True, bias=True)
    (stage,) = audiogen(
        TokenLM(TokenLMConfig(transformer=shape, num_streams=6, vocab_size=64, num_inputs=70)),
        pattern=stereo(delayed([0, 1, 3])),
        conditioners=conditioners,
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        context=20,
        keep=5,
        sampling=Sampling(
            temperature=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
            top_k=7,
            guidance_scale={"class": 2.0},
            guidance_schedule=((0.0, 1.0), (2.0, 0.5)),
        ),
    )
    return AudioPipeline([stage], CodecRenderer(codec, num_channels=2, num_codebooks=3))


@pytest.fixture
def small(codec: FrameCodec) -> AudioPipeline:
    label = LabelConditioner(["dog", "rain"], 32)
    return make_audiogen(codec, Conditioners({"class": label}, {"class": "prepend"}))


def assert_equal(a: Clip | list[Clip], b: Clip | list[Clip]) -> None:
    assert isinstance(a, Clip)
    assert isinstance(b, Clip)
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.samples, b.samples)


def weights_of(pipeline: AudioPipeline) -> dict[str, torch.Tensor]:
    return {
        f"{stage.name}.{kind}.{name}": weight
        for stage in pipeline.stages.values()
        for kind, part in (("model", stage.model), ("conditioners", stage.conditioners))
        for name, weight in part.state_dict().items()
    }


def assert_same_weights(a: AudioPipeline, b: AudioPipeline) -> None:
    one, other = weights_of(a), weights_of(b)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])


def test_our_cascade_comes_back_to_the_bit(
    codec: FrameCodec, own_text: Callable[[int], TextConditioner], tmp_path: Path
) -> None:
    saved = make_ours(codec, own_text)
    saved.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert_same_weights(saved, loaded)
    for text in ("a dog barks", None):
        assert_equal(*(p.generate(text, duration=0.2, seed=3) for p in (saved, loaded)))


def test_audiolm_comes_back_to_the_bit_and_continues_audio(
    codec: FrameCodec, semantic_tokenizer: FeatureTokenizer, tmp_path: Path
) -> None:
    saved = make_audiolm(codec, semantic_tokenizer)
    saved.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    assert_same_weights(saved, loaded)
    assert loaded.rendered == RENDERED
    assert loaded.semantic_tokenizer is not None
    assert loaded.semantic_tokenizer.identity == semantic_tokenizer.identity
    samples = torch.randn(1, 6000) * 0.1
    for pipeline in (saved, loaded):
        assert pipeline.stages["coarse"].source is not None
    assert_equal(*(p.generate(duration=0.1, seed=3) for p in (saved, loaded)))
    assert_equal(
        *(p.continue_from((samples, 24_000), duration=0.1, seed=3) for p in (saved, loaded))
    )


def test_a_stage_comes_back_with_everything_that_it_holds(
    small: AudioPipeline, tmp_path: Path
) -> None:
    small.save(tmp_path / "model")
    loaded = load_pipeline(tmp_path / "model")
    before, after = small.stages["acoustic"], loaded.stages["acoustic"]
    for field in fields(Stage):
        if field.name not in ("model", "conditioners"):
            assert getattr(before, field.name) == getattr(after, field.name)
    assert before.model.config == after.model.config
    assert before.conditioners.fuse == after.conditioners.fuse
    assert loaded.renderer.identity == small.renderer.identity
    assert not after.model.training
    clips = (p.generate(duration=0.5, seed=3, conditions={"class": "dog"}) for p in (small, loaded))
    assert_equal(*clips)  # longer than a window


def test_a_description_has_every_field_of_a_stage(small: AudioPipeline) -> None:
    described = describe_stage(small.stages["acoustic"])
    assert described.keys() == {field.name for field in fields(Stage)} - {"model"}
    assert described["frame_rate"] == "50/1"
