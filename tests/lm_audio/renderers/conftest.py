"""A tiny random codec of every kind."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from audio_tokenizers.acoustic.dac import DacTokenizer
from audio_tokenizers.acoustic.encodec import EncodecTokenizer
from audio_tokenizers.acoustic.frame_codec import FrameCodec, tiny
from audio_tokenizers.acoustic.mimi import MimiTokenizer
from audio_tokenizers.protocol import AcousticTokenizer


def tiny_encodec(**settings: object) -> AcousticTokenizer:
    small = {"num_filters": 4, "hidden_size": 16, "target_bandwidths": [3.0]}
    model = EncodecModel(EncodecConfig(**{**small, **settings})).eval()
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            for weight in layer.parameters():
                weight.mul_(2)  # else nearly nothing passes
    return EncodecTokenizer(spread(model, "embed"))


def tiny_dac() -> AcousticTokenizer:
    settings = {
        "sampling_rate": 24_000,
        "downsampling_ratios": [2, 4, 5, 8],
        "n_codebooks": 4,
        "encoder_hidden_size": 4,
        "decoder_hidden_size": 32,
    }
    model = DacModel(DacConfig(**settings)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "conv" in name and name.endswith("weight"):
                weight.normal_(0, 1 / weight[0].numel() ** 0.5)
    return DacTokenizer(model)


def tiny_mimi() -> AcousticTokenizer:
    settings = {
        "hidden_size": 32,
        "num_filters": 4,
        "upsample_groups": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "codebook_size": 128,
        "num_quantizers": 4,
        "sliding_window": 10,
    }
    return MimiTokenizer(spread(MimiModel(MimiConfig(**settings)).eval(), "embed_sum"))


def tiny_frame_codec() -> AcousticTokenizer:
    codec = FrameCodec(tiny()).eval().requires_grad_(False)
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_()
        layer._codebook.initted.fill_(True)
    return codec


def spread(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Draws the codebooks, which are zeros in a new model."""
    with torch.no_grad():
        for book in model.modules():
            entries = getattr(book, name, None)
            if isinstance(entries, torch.Tensor):
                entries.normal_()
                if name == "embed_sum":
                    book.cluster_usage.fill_(1)
                    book._embed = None
    return model


MAKERS: dict[str, Callable[[], AcousticTokenizer]] = {
    "frame-codec": tiny_frame_codec,
    "encodec-24k": tiny_encodec,
    "encodec-32k": lambda: tiny_encodec(
        sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False
    ),
    # Native stereo that normalises, in chunks of 0.1 s, to have many.
    "encodec-48k": lambda: tiny_encodec(
        sampling_rate=48_000,
        audio_channels=2,
        normalize=True,
        chunk_length_s=0.1,
        overlap=0.05,
        norm_type="time_group_norm",
        use_causal_conv=False,
    ),
    "dac": tiny_dac,
    "mimi": tiny_mimi,
}


@pytest.fixture(scope="session")
def codec_of() -> Callable[[str], AcousticTokenizer]:
    """Finds the tiny codec of a kind: `codec_of("mimi")`."""

    @cache
    def make(kind: str) -> AcousticTokenizer:
        torch.manual_seed(0)
        return MAKERS[kind]()

    return make
