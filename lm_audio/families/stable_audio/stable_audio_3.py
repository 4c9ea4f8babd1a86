"""Reads Stable Audio 3 in diffusers' layout.

Its transformer sees the known frames of a track, and zeros where there are none, as in training.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.weights import unfilled
from lm_audio.conditioners.number import ScaledNumber
from lm_audio.conditioners.text import TextConditioner
from lm_audio.families.stable_audio.configs import flow_schedule_of, same_config, third_dit_config
from lm_audio.families.stable_audio.gemma import GemmaEncoder
from lm_audio.families.stable_audio.names import third_dit_names
from lm_audio.families.stable_audio.network import AudioNetwork
from lm_audio.families.stable_audio.reading import check_parts, fill_number, folder_with
from lm_audio.families.stable_audio.stages import StableAudioParts, autoencoder_dtype
from lm_audio.networks.audio_dit import AudioDiT
from lm_audio.networks.same import Same
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.saving.files import read_weights, stated_licence
from lm_audio.saving.part_folder import Config, check_fixed, read_config, read_network
from lm_audio.saving.spectrograms import without_weight_norm

PIPELINE = "StableAudio3Pipeline"
TOTAL = "seconds_total"
_MOST_TEXT = 256  # tokens, in training


def read_stable_audio_3(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableAudioParts:
    """Reads a folder; `dtype` is that of the transformer, which is mapped on a CPU."""
    folder = folder_with(source, PIPELINE)
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    dit, padding = _transformer(folder / "transformer", mapped=mapped, dtype=dtype)
    vae, _ = read_network(
        folder / "vae",
        Same,
        same_config,
        rename=without_weight_norm,
        mapped=mapped,
        dtype=autoencoder_dtype(dtype, device),
    )
    schedule, sampling = read_config(
        folder / "scheduler" / "scheduler_config.json", flow_schedule_of
    )
    encoder = GemmaEncoder.load(
        folder / "text_encoder", folder / "tokenizer", max_length=_MOST_TEXT
    )
    numbers = {TOTAL: _duration(folder / "duration_embedder")}
    text = TextConditioner(encoder, encoder.dim, null="none", project=False)
    network = AudioNetwork(
        dit,
        num_tokens=encoder.max_length,
        attended=[TOTAL],
        shared=[TOTAL],
        padding=padding,
    )
    check_parts(network, text, numbers, vae, source=folder)
    renderer = WaveformLatentRenderer(autoencoder=vae)
    parts = StableAudioParts(
        network=network,
        text=text,
        numbers=numbers,
        predicts="flow",
        schedule=schedule,
        sampling=sampling,
        window_frames=max(1, int(numbers[TOTAL].high * renderer.signal.rate)),
        renderer=renderer,
        licence=stated_licence(folder),
    )
    return parts if mapped else parts.to(device, dtype)


def _transformer(folder: Path, *, mapped: bool, dtype: torch.dtype) -> tuple[AudioDiT, Tensor]:
    """The transformer, and the vector in place of the padding of texts, which is stored with it."""
    padding: list[Tensor] = []

    def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = third_dit_names(weights)
        if "padding" in made:
            padding.append(made.pop("padding").float().clone())
        return made

    dit, _ = read_network(
        folder, AudioDiT, third_dit_config, rename=rename, mapped=mapped, dtype=dtype
    )
    shape = dit.config
    if not padding or list(padding[0].shape) != [shape.condition_width]:
        raise ValueError(f"{folder} has no prompt_padding_embedding of [{shape.condition_width}].")
    if shape.known_width != 1 + shape.width:
        raise ValueError(
            f"{folder} sees known frames of width {shape.known_width}; expected a mask and "
            f"latents, {1 + shape.width}."
        )
    return dit, padding[0]


def _duration(folder: Path) -> ScaledNumber:
    """The conditioner of StableAudio3DurationEmbedder."""

    def build(config: Config) -> ScaledNumber:
        check_fixed(config, {"_class_name": "StableAudio3DurationEmbedder"})
        with unfilled():
            return ScaledNumber(
                config["output_dim"],
                config["min_val"],
                config["max_val"],
                num_waves=config["fourier_dim"] // 2,
                spaced=(config["min_freq"], config["max_freq"]),
            )

    number = read_config(folder / "config.json", build)
    weights = read_weights(folder)
    weights.pop("freqs", None)  # a constant
    fill_number(number, weights, source=folder)
    return number
