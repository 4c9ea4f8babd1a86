"""Latent flows with random weights, alone and after a semantic stage."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.text import OwnTextEncoder, OwnTextEncoderConfig, TextConditioner
from lm_audio.families.latent_flow.stages import latent_flow
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Stage
from lm_audio.model import Model, ModelCard
from lm_audio.networks.dit import DiT
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import parallel
from lm_audio.renderers.codec_latents import CodecLatentRenderer
from lm_audio.sampling import Denoising, Sampling

SEMANTIC_TOKENS, SEMANTIC_RATE = 12, Fraction(25)
SHAPE = TransformerConfig(
    dim=32, num_layers=2, num_heads=2, hidden_dim=48, causal=False, cross_attention=True
)
LABELS = ("dog", "rain")
FEW = Denoising(steps=3, solver="euler", guidance_scale=2.0)

MakeModel = Callable[..., Model]


@pytest.fixture(scope="session")
def codec() -> FrameCodec:
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    return codec


def own_text(dim: int) -> nn.Module:
    words = SentencePieceTokenizer.train(["rain on a tent", "a dog barks", "hail"] * 3, 400)
    shape = replace(SHAPE, cross_attention=False)
    encoder = OwnTextEncoder(
        OwnTextEncoderConfig(transformer=shape, vocab_size=words.vocab_size), words
    )
    return TextConditioner(encoder, dim)


def semantic_stage() -> LMStage:
    shape = replace(SHAPE, causal=True, cross_attention=True)
    config = TokenLMConfig(transformer=shape, num_streams=1, vocab_size=SEMANTIC_TOKENS)
    return LMStage(
        name="semantic",
        model=TokenLM(config).eval(),
        pattern=parallel(1),
        conditioners=Conditioners({"text": own_text(shape.dim)}, {"text": "cross"}).eval(),
        frame_rate=SEMANTIC_RATE,
        window_frames=25,
        overlap_frames=8,
        sampling=Sampling(guidance_scale=1.0),
        start_token=SEMANTIC_TOKENS,
        token_kind="semantic",
    )


@pytest.fixture(scope="session")
def make_model(codec: FrameCodec) -> MakeModel:
    def make(*, semantic: bool = False, channels: int = 1, quantize: bool = True, **flow) -> Model:  # type: ignore[no-untyped-def]
        torch.manual_seed(1)
        width = channels * codec.latent_size
        renderer = CodecLatentRenderer(
            codec=codec,
            num_channels=channels,
            mean=torch.linspace(-0.2, 0.2, width),
            deviation=torch.linspace(0.3, 0.6, width),
            quantize=quantize,
        )
        stages: list[Stage] = [semantic_stage()] if semantic else []
        followed = {"num_semantic_tokens": SEMANTIC_TOKENS, "semantic_rate": SEMANTIC_RATE}
        stage = latent_flow(
            SHAPE,
            makes=renderer.signal,
            text=own_text,
            labels={"label": LABELS},
            window_seconds=1.0,
            **(followed if semantic else {}),
            **flow,
        )
        assert isinstance(stage.network, DiT)
        for weight in stage.network.parameters():  # new ones are zero in places
            weight.data += 0.1 * torch.randn(weight.shape)
        card = ModelCard(name="flow", licence="CC0-1.0")
        return Model([*stages, replace(stage, sampling=FEW)], renderer, card=card)

    return make
