"""Small random codecs with filled codebooks, one of each public kind."""

from collections.abc import Callable

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

ENCODEC_SETTINGS: dict[str, dict[str, object]] = {
    "24k": {},
    "48k": {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
    "32k": {
        "sampling_rate": 32_000,
        "upsampling_ratios": [8, 5, 4, 4],
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
    },
    "16k": {
        "sampling_rate": 16_000,
        "use_causal_conv": False,
        "use_conv_shortcut": False,
        "codebook_size": 2048,
        "target_bandwidths": [2.2],
        "pad_mode": "constant",
    },
}


@pytest.fixture(scope="session")
def make_encodec() -> Callable[..., EncodecModel]:
    """Builds a random EnCodec: `make_encodec("24k", num_filters=4)`."""

    def make(kind: str, **overrides: object) -> EncodecModel:
        torch.manual_seed(0)
        small = {"num_filters": 4, "hidden_size": 16}
        model = EncodecModel(EncodecConfig(**{**ENCODEC_SETTINGS[kind], **small, **overrides}))
        return fill_codebooks(model.eval())

    return make


def fill_codebooks(model: EncodecModel) -> EncodecModel:
    """Spreads the entries over what the encoder makes of noise: zeros would all be ties.

    The latents are made to vary, centred, and taken away little by little: distances that are tiny
    beside the vectors would be mostly rounding.
    """
    with torch.no_grad():
        for layer in (*model.encoder.layers, *model.decoder.layers):
            for weight in layer.parameters():
                weight.mul_(2)
        residual = model.encoder(torch.randn(1, model.config.audio_channels, 20_000))
        last, mean = model.encoder.layers[-1], residual.mean(dim=(0, 2))  # [D]
        (last.norm if hasattr(last, "norm") else last.conv).bias.sub_(mean)
        residual = residual - mean[:, None]
        for layer in model.quantizer.layers:
            book = layer.codebook
            book.embed.copy_(torch.randn_like(book.embed) * residual.std(dim=(0, 2)) * 0.2)
            book.embed_avg.normal_()
            book.cluster_size.uniform_(1, 2)
            residual = residual - layer.decode(layer.encode(residual))
    return model
