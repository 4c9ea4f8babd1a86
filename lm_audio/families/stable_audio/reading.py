"""Reads Stable Audio Open in diffusers' layout: a folder with one subfolder per part."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.text import T5TextTokenizer
from audio_tokenizers.weights import unfilled
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.number import ScaledNumber
from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.families.stable_audio.configs import (
    cosine_schedule_of,
    first_dit_config,
    oobleck_config,
)
from lm_audio.families.stable_audio.names import first_dit_names, number_names, under
from lm_audio.families.stable_audio.network import AudioNetwork
from lm_audio.families.stable_audio.stages import StableAudioParts, autoencoder_dtype
from lm_audio.networks.audio_dit import AudioDiT
from lm_audio.networks.oobleck import Oobleck
from lm_audio.networks.same import Same
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.sampling import Denoising
from lm_audio.saving.files import folder_of, read_json, read_weights, stated_licence
from lm_audio.saving.part_folder import Config, fill, read_config, read_network
from lm_audio.saving.spectrograms import without_weight_norm
from lm_audio.saving.text_models import load_text_model, load_tokenizer, token_limit

PIPELINE = "StableAudioPipeline"
SAMPLING = Denoising(steps=100, solver="dpm++2m-sde", guidance_scale=7.0)
_NUMBERS = {"seconds_start": "start_number_conditioner", "seconds_total": "end_number_conditioner"}


def read_stable_audio(
    source: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableAudioParts:
    """Reads a folder; `dtype` is that of the transformer.

    On a CPU the transformer and the autoencoder are mapped: in float32, their weights occupy no
    memory twice.
    """
    folder = folder_with(source, PIPELINE)
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    dit, _ = read_network(
        folder / "transformer",
        AudioDiT,
        first_dit_config,
        rename=first_dit_names,
        mapped=mapped,
        dtype=dtype,
    )
    vae, _ = read_network(
        folder / "vae",
        Oobleck,
        oobleck_config,
        rename=without_weight_norm,
        mapped=mapped,
        dtype=autoencoder_dtype(dtype, device),
    )
    schedule, predicts = read_config(
        folder / "scheduler" / "scheduler_config.json", cosine_schedule_of
    )
    encoder = _t5(folder)
    text, numbers = _projections(folder / "projection_model", encoder)
    network = AudioNetwork(
        dit, num_tokens=encoder.max_length, attended=tuple(numbers), shared=tuple(numbers)
    )
    check_parts(network, text, numbers, vae, source=folder)
    parts = StableAudioParts(
        network=network,
        text=text,
        numbers=numbers,
        predicts=predicts,
        schedule=schedule,
        sampling=SAMPLING,
        window_frames=read_config(folder / "transformer" / "config.json", _window),
        renderer=WaveformLatentRenderer(autoencoder=vae),
        licence=stated_licence(folder),
    )
    return parts if mapped else parts.to(device, dtype)


def folder_with(source: str | Path, pipeline: str) -> Path:
    """The source as a folder whose model_index.json names this pipeline."""
    folder = folder_of(source)
    name = read_json(folder / "model_index.json").get("_class_name")
    if name != pipeline:
        raise ValueError(f"Expected {pipeline} in the model_index.json of {folder}, got {name}.")
    return folder


def check_parts(
    network: AudioNetwork,
    text: TextConditioner,
    numbers: Mapping[str, ScaledNumber],
    vae: Oobleck | Same,
    *,
    source: Path,
) -> None:
    """Raises ValueError if the parts do not fit each other."""
    shape, width = network.dit.config, vae.config.latent_width
    vector = sum(numbers[name].dim for name in network.shared)
    wrong = []
    if shape.width != width:
        wrong.append(f"the transformer has latents of width {shape.width}, the vae of {width}")
    if shape.condition_width != text.dim:
        wrong.append(f"the transformer attends to width {shape.condition_width}, not {text.dim}")
    if shape.vector_width != vector:
        wrong.append(f"the transformer takes vectors of width {shape.vector_width}, not {vector}")
    if wrong:
        raise ValueError(f"The parts of {source} do not match: {'; '.join(wrong)}.")


def _t5(folder: Path) -> T5Encoder:
    from transformers import T5EncoderModel

    model = load_text_model(
        T5EncoderModel, folder / "text_encoder", kind="t5", ignored=("decoder", "lm_head")
    )
    tokenizer = load_tokenizer(folder / "tokenizer")
    return T5Encoder(model, T5TextTokenizer(tokenizer), max_length=token_limit(tokenizer))


def _projections(
    folder: Path, encoder: T5Encoder
) -> tuple[TextConditioner, dict[str, ScaledNumber]]:
    """The conditioners of StableAudioProjectionModel."""

    def build(config: Config) -> tuple[TextConditioner, dict[str, ScaledNumber]]:
        dim, width = config["conditioning_dim"], config["text_encoder_dim"]
        if width != encoder.dim:
            raise ValueError(f"the text_encoder has width {encoder.dim}, not {width}")
        low, high = config["min_value"], config["max_value"]
        with unfilled():
            text = TextConditioner(encoder, dim, null="none", project=dim != width)
            return text, {name: ScaledNumber(dim, low, high) for name in _NUMBERS}

    text, numbers = read_config(folder / "config.json", build)
    weights = read_weights(folder)
    fill_text(text, under("text_projection.", weights), source=folder)
    for name, old in _NUMBERS.items():
        fill_number(numbers[name], under(f"{old}.", weights), source=folder)
    return text, numbers


def fill_text(text: TextConditioner, weights: dict[str, Tensor], *, source: Path) -> None:
    """Gives an unfilled conditioner the weights of its projection."""
    fill(text.projection, weights, source=source)
    text.null = Null("none", text.dim)


def fill_number(number: ScaledNumber, weights: dict[str, Tensor], *, source: Path) -> None:
    """Gives an unfilled conditioner its weights in either layout."""
    fill(number, number_names(weights), source=source)
    number.null = Null("zero", number.dim)


def _window(config: Config) -> int:
    """The frames of the clips in training."""
    if config["sample_size"] < 1:
        raise ValueError(f"sample_size must be at least 1, got {config['sample_size']}.")
    return int(config["sample_size"])
