"""The embedded default, and a stand-in of its kind with random weights until it is there."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lm_audio
from audio_tokenizers.acoustic.frame_codec import FrameCodec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio import pretrained
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.modules.transformer import TransformerConfig
from lm_audio.pipeline import AudioPipeline
from lm_audio.pipeline.about import About
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.stages.ours import ours

NUM_SEMANTIC = 20


@pytest.fixture(scope="session")
def default_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pretrained.DEFAULT_FOLDER`, as soon as a whole model is there; then all below can go."""
    folder = tmp_path_factory.mktemp("pretrained") / "default"
    stand_in().save(folder, half=True)
    return folder


@pytest.fixture(autouse=True)
def _embedded(default_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", default_folder)


@pytest.fixture(scope="session")
def model(default_folder: Path) -> AudioPipeline:
    """The default; that `load()` gives it without its folder is for a test to see."""
    return lm_audio.load(default_folder, device="cpu")


def stand_in() -> AudioPipeline:
    """Text -> semantic -> acoustic, with what reads text and audio prompts."""
    codec, masked = FrameCodec(tiny_codec()).eval(), MaskedAudioModel(tiny_masked_model()).eval()
    for module in (codec, masked):
        fill(module)
    for layer in codec.quantizer.layers:
        layer._codebook.initted.fill_(True)
    centroids = torch.from_numpy(np.random.default_rng(1).standard_normal((20, masked.width)))
    codebook = KMeansCodebook(
        centroids=centroids.float(),
        mean=torch.zeros(masked.width),
        std=torch.ones(masked.width),
        source=FeatureSource(model=masked.identity, layer=1),
    )
    shape = TransformerConfig(
        dim=32, num_layers=2, num_heads=2, hidden_dim=64, cross_attention=True
    )
    tokenizer = SentencePieceTokenizer.train(["a dog barking", "rain on a roof"] * 9, 273)
    reader = TransformerConfig(dim=16, num_layers=1, num_heads=2, hidden_dim=32, causal=False)
    config = OwnTextEncoderConfig(transformer=reader, vocab_size=tokenizer.vocab_size)
    stages = ours(
        semantic=shape,
        acoustic=shape,
        text=lambda dim: TextConditioner(OwnTextEncoder(config, tokenizer), dim),
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(25),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(50),
    )
    for stage in stages:
        fill(stage.model)
        fill(stage.conditioners)
    return AudioPipeline(
        stages,
        CodecRenderer(codec),
        semantic_tokenizer=FeatureTokenizer(masked, codebook),
        about=About(name="default", licence="Apache-2.0"),
    )


def fill(module: nn.Module) -> None:
    """Draws weights that no version of torch draws otherwise, and that float16 holds exactly."""
    rng = np.random.default_rng(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            drawn = rng.standard_normal(tuple(tensor.shape), dtype=np.float32)
            scale = 0.5 if tensor.dim() < 2 else tensor[0].numel() ** -0.5
            tensor.copy_(torch.from_numpy(drawn * scale).half())
