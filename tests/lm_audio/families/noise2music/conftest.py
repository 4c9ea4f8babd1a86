"""Small random cascades: 1 kHz to 4 kHz to 6 kHz."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.families.noise2music.stages import cascade, cascader, generator, waveform
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.model import Model, ModelCard
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.networks.unet1d import UNet1dConfig
from lm_audio.saving.folder import save_model

RATES = (1000, 4000, 6000)
MakeStages = Callable[..., list[DiffusionStage]]


def shape(num_channels: int = 1) -> UNet1dConfig:
    return UNet1dConfig(
        in_channels=num_channels, out_channels=num_channels, widths=(32, 32), num_attending=1
    )


def text(dim: int) -> nn.Module:
    tokenizer = SentencePieceTokenizer.train(["a dog barks", "rain", "a violin plays"] * 3, 300)
    config = OwnTextEncoderConfig(
        transformer=TransformerConfig(
            dim=16, num_layers=1, num_heads=2, hidden_dim=32, causal=False
        ),
        vocab_size=tokenizer.vocab_size,
    )
    return TextConditioner(OwnTextEncoder(config, tokenizer), dim)


def small_stages(*, num_channels: int = 1, seed: int = 0) -> list[DiffusionStage]:
    """A generator that follows a text, a cascader that does, and one that does not."""
    torch.manual_seed(seed)
    first = generator(shape(num_channels), rate=1000, window_seconds=0.064, text=text)
    stages = [first]
    for rate, follows_text in ((4000, True), (6000, False)):
        stage = cascader(
            shape(num_channels),
            follows=waveform(int(stages[-1].makes.rate), num_channels),
            rate=rate,
            most_noise=0.5,
            window_seconds=0.016,
            text=text if follows_text else None,
        )
        stages.append(stage)
    for stage in stages:
        assert isinstance(stage.network, nn.Module)
        for name, weight in stage.network.named_parameters():
            is_scale = "norm" in name and name.endswith("weight")
            width = weight[0].numel() if weight.dim() > 1 else 4
            nn.init.normal_(weight, float(is_scale), 0.3 if is_scale else 0.6 * width**-0.5)
    return stages


@pytest.fixture(scope="session")
def make_stages() -> MakeStages:
    return small_stages


@pytest.fixture(scope="session")
def small() -> Model:
    """A whole cascade."""
    return cascade(small_stages(), card=ModelCard(name="small", licence="MIT"))


@pytest.fixture(scope="session")
def folder(small: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("noise2music") / "cascade"
    save_model(small, made)
    return made
