"""Tiny random models of each kind, with weights large enough that their layers differ."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
WAVEFORM_SIZES = {
    **SIZES,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


@pytest.fixture(scope="session")
def make_model() -> Callable[..., nn.Module]:
    """make_model(kind, **settings): a tiny model of `transformers`, without a checkpoint."""

    def make(kind: str, **settings: Any) -> nn.Module:
        import transformers

        names = {
            "wav2vec2": "Wav2Vec2",
            "hubert": "Hubert",
            "wavlm": "WavLM",
            "wav2vec2-bert": "Wav2Vec2Bert",
        }
        sizes = SIZES if kind == "wav2vec2-bert" else WAVEFORM_SIZES
        config = getattr(transformers, f"{names[kind]}Config")(**{**sizes, **settings})
        torch.manual_seed(0)
        model = getattr(transformers, f"{names[kind]}Model")(config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "original" not in name:
                    weight.normal_(0, 1.5 / weight[0].numel() ** 0.5)
        return model

    return make


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """save_model(model, folder): the model and its preprocessor settings as the hub has them."""

    def save(model: Any, folder: Path, *, normalize: bool = True) -> Path:
        from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2FeatureExtractor

        model.save_pretrained(folder)
        if model.config.model_type == "wav2vec2-bert":
            SeamlessM4TFeatureExtractor().save_pretrained(folder)
        else:
            Wav2Vec2FeatureExtractor(do_normalize=normalize).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """noise(*shape): float32 noise with a slow swell, so that stretches of it differ."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        samples = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
        return samples * (0.1 + torch.linspace(0, 9, shape[-1]).sin() ** 2)

    return make
