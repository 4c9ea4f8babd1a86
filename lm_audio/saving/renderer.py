"""The renderer of a model in lm-audio's own format: settings in config.json, beside its networks.

codec/                      of a renderer of tokens or of a codec's latents
autoencoder/ and vocoder/   of a renderer of spectrograms: see `spectrograms.py`

A renderer of waveforms has no network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from audio_tokenizers.acoustic.registry import save_codec
from audio_tokenizers.protocol import AcousticTokenizer, LatentCodec
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.renderers.codec_latents import LATENTS, CodecLatentRenderer
from lm_audio.renderers.latent import LatentRenderer
from lm_audio.renderers.protocol import Renderer
from lm_audio.renderers.waveform import WAVEFORM, WaveformRenderer
from lm_audio.saving.spectrograms import check_storable, read_renderer, write_renderer

CODEC, AUTOENCODER, VOCODER = "codec", "autoencoder", "vocoder"
"""The folders of the networks."""
_SPECTROGRAMS = "spectrogram latents"


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
    if isinstance(renderer, LatentRenderer):
        check_storable(renderer)  # the settings are in the folders of the networks
        return {"takes": _SPECTROGRAMS}
    if isinstance(renderer, WaveformRenderer):
        return {
            "takes": WAVEFORM,
            "sample_rate": renderer.sample_rate,
            "channels": renderer.num_channels,
        }
    raise ValueError(
        "Only the renderers of a codec, of spectrograms or of waveforms can be saved, got "
        f"{type(renderer).__name__}."
    )


def save_renderer(renderer: Renderer, folder: Path, *, half: bool) -> None:
    """Writes the networks of a renderer that `describe_renderer` accepts.

    Args:
        half: store a codec as float16 if that is exact.
    """
    if isinstance(renderer, LatentRenderer):
        write_renderer(renderer, folder / AUTOENCODER, folder / VOCODER)
    elif not isinstance(renderer, WaveformRenderer):
        save_codec(renderer.codec, folder / CODEC, half=half)  # type: ignore[attr-defined]


def takes_spectrogram_latents(description: Mapping[str, Any]) -> bool:
    """Whether `load_spectrogram_renderer` reads the renderer."""
    return description.get("takes") == _SPECTROGRAMS


def waveform_renderer(description: Mapping[str, Any]) -> WaveformRenderer | None:
    """The renderer of waveforms that this describes; None for others, which have networks."""
    if description.get("takes") != WAVEFORM:
        return None
    return WaveformRenderer(
        sample_rate=description["sample_rate"], num_channels=description["channels"]
    )


def load_spectrogram_renderer(folder: Path, *, device: torch.device | str) -> LatentRenderer:
    """Reads the networks that `save_renderer` wrote."""
    renderer = read_renderer(folder / AUTOENCODER, folder / VOCODER)
    renderer.autoencoder.to(device)
    renderer.vocoder.to(device)
    return renderer


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
