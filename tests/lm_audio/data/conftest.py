"""A small random codec and a small random semantic tokenizer, in folders."""

from pathlib import Path

import pytest
import torch

from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec
from audio_tokenizers.acoustic.frame_codec import tiny as tiny_codec
from audio_tokenizers.semantic.features import save_features
from audio_tokenizers.semantic.kmeans import FeatureSource, KMeansCodebook
from audio_tokenizers.semantic.masked_model import MaskedAudioModel
from audio_tokenizers.semantic.masked_model import tiny as tiny_masked_model
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer, save_feature_tokenizer


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codec")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = FrameCodec(tiny_codec()).eval()
        for layer in codec.quantizer.layers:
            layer._codebook.embed.normal_()
            layer._codebook.initted.fill_(True)
    save_frame_codec(codec, folder)
    return folder


@pytest.fixture(scope="session")
def semantic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("semantic")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedAudioModel(tiny_masked_model()).eval()
        features = model.features(torch.randn(1, 1, 48_000), 1)[0]
        codebook = KMeansCodebook(
            centroids=torch.randn(8, model.width),
            mean=features.mean(0),
            std=features.std(0),
            source=FeatureSource(model=model.identity, layer=1),
        )
    save_features(model, folder / "model")
    save_feature_tokenizer(FeatureTokenizer(model, codebook), folder, model="model")
    return folder
