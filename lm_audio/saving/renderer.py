"""The renderer of a model in lm-audio's own format: settings in config.json, beside the codec."""

from collections.abc import Mapping
from typing import Any, cast

import torch

from audio_tokenizers.protocol import AcousticTokenizer, LatentCodec
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.renderers.codec_latents import LATENTS, CodecLatentRenderer
from lm_audio.renderers.protocol import Renderer


def describe_renderer(renderer: Renderer) -> dict[str, Any]:
    """The settings; raises ValueError for a renderer that cannot be saved."""
    if isinstance(renderer, CodecRenderer):
        token_sets = renderer.num_channels // renderer.codec.num_channels
        return {
            "channels": renderer.num_channels,
            "codebooks": renderer.num_codebooks // token_sets,
        }
    if isinstance(renderer, CodecLatentRenderer):
        return {
            "takes": LATENTS,
            "channels": renderer.num_channels,
            "codebooks": renderer.codec.num_codebooks,
            "quantize": renderer.quantize,
            "mean": renderer.mean.tolist(),
            "deviation": renderer.deviation.tolist(),
        }
    raise ValueError(
        "Only a CodecRenderer or a CodecLatentRenderer can be saved, got "
        f"{type(renderer).__name__}."
    )


def build_renderer(description: Mapping[str, Any], codec: AcousticTokenizer) -> Renderer:
    """The renderer of these settings around a codec."""
    if "takes" not in description:
        return CodecRenderer(
            codec,
            num_channels=description["channels"],
            num_codebooks=description["codebooks"],
        )
    if description["takes"] != LATENTS or not hasattr(codec, "latent_size"):
        raise ValueError(
            f"The renderer takes {description['takes']}, which its codec does not decode. "
            "Download the model again."
        )
    return CodecLatentRenderer(
        codec=cast(LatentCodec, codec),
        num_channels=description["channels"],
        mean=torch.tensor(description["mean"], dtype=torch.float32),
        deviation=torch.tensor(description["deviation"], dtype=torch.float32),
        quantize=description["quantize"],
    )
