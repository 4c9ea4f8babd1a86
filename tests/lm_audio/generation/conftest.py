"""The compositions at tiny size, with random weights."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.families.audiocraft.stages import audiogen, magnet
from lm_audio.families.audiolm.stages import RENDERED, audiolm
from lm_audio.families.duet.stages import duet
from lm_audio.families.soundstorm.stages import soundstorm
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed, stereo
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling, Unmasking

NUM_SEMANTIC = 40
TEXTS = ("rain", "a dog barking", "a violin")


class PitchTokens:
    """A semantic tokenizer for tests: the loudness of 40 ms, in steps."""

    identity = "pitch"
    sample_rate = 16_000
    frame_rate = 25.0
    num_tokens = NUM_SEMANTIC

    def encode(self, samples: Tensor) -> Tensor:
        padded = nn.functional.pad(samples.mean(1), (0, -samples.shape[-1] % 640))
        loudness = padded.unflatten(1, (-1, 640)).abs().mean(-1)
        return (loudness * 400).long().clamp(0, NUM_SEMANTIC - 1)[:, None]

    def features(self, samples: Tensor, layer: int) -> Tensor:
        raise NotImplementedError


def texts(dim: int) -> nn.Module:
    """Stands in for a text encoder: as quick, and it knows three prompts."""
    return LabelConditioner(TEXTS, dim)


def lively(module: nn.Module) -> None:
    """Spreads the logits of random weights, so that tokens depend on all that comes in."""
    for parameter in module.parameters():
        parameter.data *= 2.5


@pytest.fixture(scope="session")
def codec() -> FrameCodec:
    """24 kHz, 50 frames a second, 4 codebooks."""
    torch.manual_seed(0)
    codec = FrameCodec(tiny()).eval()
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
        layer._codebook.initted.fill_(True)
    return codec.requires_grad_(False)


def shape(**changes: object) -> TransformerConfig:
    settings: dict[str, object] = {"dim": 32, "num_layers": 2, "num_heads": 2, "hidden_dim": 48}
    return TransformerConfig(**settings | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make_duet(codec: FrameCodec) -> "type[AudioPipeline]":
    """Text -> semantic -> acoustic, in mono or stereo: `make_duet(2)`."""

    def make(num_channels: int = 1) -> AudioPipeline:
        torch.manual_seed(0)
        stages = duet(
            semantic=shape(cross_attention=True),
            acoustic=shape(cross_attention=True),
            text=texts,
            num_semantic_tokens=NUM_SEMANTIC,
            semantic_rate=Fraction(25),
            num_codebooks=codec.num_codebooks,
            codebook_size=codec.codebook_size,
            frame_rate=Fraction(50),
            num_channels=num_channels,
        )
        for stage in stages:
            lively(stage.model)
            lively(stage.conditioners)
        renderer = CodecRenderer(codec, num_channels=num_channels)
        return AudioPipeline(Model(stages, renderer, semantic_tokenizer=PitchTokens()))

    return make  # type: ignore[return-value]


@pytest.fixture(scope="session")
def duet_mono(make_duet: "type[AudioPipeline]") -> AudioPipeline:
    return make_duet(1)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def audiolm_mono(codec: FrameCodec) -> AudioPipeline:
    """Semantic -> coarse -> fine, unconditional."""
    torch.manual_seed(0)
    stages = audiolm(
        shape(positions="relative", norm="layer", activation="gelu"),
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(20),
        num_coarse=2,
        num_fine=2,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(50),
    )
    for stage in stages:
        lively(stage.model)
    return AudioPipeline(
        Model(
            stages, CodecRenderer(codec), output_stages=RENDERED, semantic_tokenizer=PitchTokens()
        )
    )


@pytest.fixture(scope="session")
def make_audiogen(codec: FrameCodec) -> "type[AudioPipeline]":
    """Text -> all codebooks, windows of 2 s of which 1 s is kept: `make_audiogen(2)`."""

    def make(num_channels: int = 1) -> AudioPipeline:
        torch.manual_seed(0)
        K = codec.num_codebooks
        config = presets.tiny(num_streams=K * num_channels, vocab_size=codec.codebook_size)
        conditioners = Conditioners({"text": texts(config.transformer.dim)}, {"text": "cross"})
        model = TokenLM(config)
        lively(model)
        lively(conditioners)
        pattern = delayed(range(K))
        stages = audiogen(
            model,
            pattern=stereo(pattern) if num_channels == 2 else pattern,
            conditioners=conditioners,
            frame_rate=Fraction(50),
            window_frames=100,
            overlap_frames=50,
            sampling=Sampling(),
        )
        return AudioPipeline(Model(stages, CodecRenderer(codec, num_channels=num_channels)))

    return make  # type: ignore[return-value]


@pytest.fixture(scope="session")
def audiogen_mono(make_audiogen: "type[AudioPipeline]") -> AudioPipeline:
    return make_audiogen(1)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def magnet_mono(codec: FrameCodec) -> AudioPipeline:
    """Text -> all codebooks in parallel, windows of 1.2 s of which half is kept."""
    torch.manual_seed(0)
    config = TokenLMConfig(
        transformer=shape(causal=False, cross_attention=True, positions="sinusoidal", norm="layer"),
        num_streams=codec.num_codebooks,
        vocab_size=codec.codebook_size,
    )
    conditioners = Conditioners({"text": texts(config.transformer.dim)}, {"text": "cross"})
    model = TokenLM(config)
    lively(model)
    lively(conditioners)
    stages = magnet(
        model,
        conditioners=conditioners,
        frame_rate=Fraction(50),
        window_frames=60,
        overlap_frames=30,
        span=3,
        reach=5,
        sampling=Unmasking(
            steps=(6, 3, 2, 2),
            temperature=3.0,
            top_p=0.9,
            guidance_scale=10.0,
            final_guidance_scale=1.0,
        ),
    )
    return AudioPipeline(Model(stages, CodecRenderer(codec)))


@pytest.fixture(scope="session")
def soundstorm_mono(codec: FrameCodec, duet_mono: AudioPipeline) -> AudioPipeline:
    """Duet with its acoustic stage replaced: text -> semantic -> all codebooks in parallel."""
    torch.manual_seed(0)
    stage = soundstorm(
        shape(causal=False, cross_attention=True),
        text=texts,
        num_semantic_tokens=NUM_SEMANTIC,
        semantic_rate=Fraction(25),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate=Fraction(50),
    )
    lively(stage.model)
    lively(stage.conditioners)
    stage = replace(stage, window_frames=60, overlap_frames=30)
    return AudioPipeline(duet_mono.model.with_stage(stage))


@pytest.fixture(params=["duet", "audiolm", "audiogen", "magnet", "soundstorm"])
def pipeline(request: pytest.FixtureRequest) -> AudioPipeline:
    """Each of the compositions."""
    return request.getfixturevalue(f"{request.param}_mono")
