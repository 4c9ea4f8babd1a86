"""Tiny models with random weights, one of each composition, and what they are made of."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import tokenizers
import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.text import (
    OwnTextEncoder,
    OwnTextEncoderConfig,
    TextConditioner,
)
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.families.audiolm.stages import RENDERED, audiolm
from lm_audio.families.duet.stages import duet
from lm_audio.model import Model
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed, stereo
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling

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
    letters = sorted(set("▁".join(CAPTIONS).replace(" ", "▁")))
    vocabulary = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>", *letters)]
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
    T5EncoderModel(T5Config(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder)
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


@pytest.fixture
def make_duet(codec: FrameCodec) -> Callable[..., AudioPipeline]:
    """Our cascade: `make_duet(text)`, where `text` makes the text conditioner of a width."""

    def make(text: Callable[[int], nn.Module]) -> AudioPipeline:
        shape = transformer(cross_attention=True)
        stages = duet(
            semantic=shape,
            acoustic=shape,
            text=text,
            num_semantic_tokens=NUM_SEMANTIC,
            semantic_rate=Fraction(25),
            num_codebooks=codec.num_codebooks,
            codebook_size=codec.codebook_size,
            frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        )
        return AudioPipeline(Model(stages, CodecRenderer(codec)))

    return make


@pytest.fixture
def three_stages(codec: FrameCodec, semantic_tokenizer: FeatureTokenizer) -> AudioPipeline:
    """AudioLM, with a tokenizer for audio prompts."""
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
        Model(
            stages,
            CodecRenderer(codec),
            output_stages=RENDERED,
            semantic_tokenizer=semantic_tokenizer,
        )
    )


@pytest.fixture
def small(codec: FrameCodec) -> AudioPipeline:
    """One stage in stereo, with settings other than by default."""
    label = LabelConditioner(["dog", "rain"], 32)
    shape = transformer(positions="sinusoidal", cross_attention=True, bias=True)
    (stage,) = audiogen(
        TokenLM(TokenLMConfig(transformer=shape, num_streams=6, vocab_size=64, num_inputs=70)),
        pattern=stereo(delayed([0, 1, 3])),
        conditioners=Conditioners({"class": label}, {"class": "prepend"}),
        frame_rate=Fraction(codec.sample_rate, codec.hop_length),
        window_frames=20,
        overlap_frames=5,
        sampling=Sampling(
            temperature=(1.0, 0.9, 0.8, 0.7, 0.6, 0.5),
            top_k=7,
            guidance_scale={"class": 2.0},
            guidance_schedule=((0.0, 1.0), (2.0, 0.5)),
        ),
    )
    return AudioPipeline(Model([stage], CodecRenderer(codec, num_channels=2, num_codebooks=3)))
