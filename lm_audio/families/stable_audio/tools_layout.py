"""Reads the layout of stable-audio-tools: model_config.json beside one file with all weights.

The text encoder is not in that file; it comes from a subfolder `t5`, or from the hub.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from audio_tokenizers.weights import MappedFile, read_safetensors, unfilled
from lm_audio.conditioners.number import ScaledNumber
from lm_audio.conditioners.text import T5Encoder, TextConditioner
from lm_audio.families.stable_audio.names import (
    tools_dit_names,
    tools_oobleck_names,
    under,
)
from lm_audio.families.stable_audio.network import AudioNetwork
from lm_audio.families.stable_audio.reading import check_parts, fill_number, fill_text
from lm_audio.families.stable_audio.stages import StableAudioParts, autoencoder_dtype
from lm_audio.families.stable_audio.tools_configs import (
    conditions_of,
    num_samples_of,
    objective_of,
    tools_dit_config,
    tools_oobleck_config,
)
from lm_audio.networks.audio_dit import AudioDiT
from lm_audio.networks.oobleck import Oobleck
from lm_audio.renderers.waveform_latents import WaveformLatentRenderer
from lm_audio.saving.files import folder_of, read_json, stated_licence
from lm_audio.saving.part_folder import Config, Release, convert_mapped, fill, nothing, read_config
from lm_audio.saving.pickles import read_pickle

SETTINGS = "model_config.json"
MODEL_TYPES = ("diffusion_cond", "diffusion_cond_inpaint")
T5_FOLDER = "t5"
_DIT, _OOBLECK, _CONDITIONS = "model.model.", "pretransform.model.", "conditioner.conditioners."


def holds_tools_layout(folder: Path) -> bool:
    """Whether a folder has the settings of a conditioned diffusion model."""
    return read_json(folder / SETTINGS).get("model_type") in MODEL_TYPES


def read_tools_layout(
    source: str | Path,
    *,
    text_encoder: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> StableAudioParts:
    """Reads a folder; `dtype` is that of the transformer.

    Args:
        text_encoder: a folder or hub id of the T5; by default the subfolder `t5`, or else the one
            that the settings name.
    """
    folder = folder_of(source)
    path = folder / SETTINGS
    if not holds_tools_layout(folder):
        raise ValueError(f"Expected the settings of a conditioned diffusion model in {path}.")
    dit, vae = read_config(path, _networks)
    conditions = read_config(path, conditions_of)
    predicts, schedule, sampling = read_config(path, objective_of)
    beside = folder / T5_FOLDER
    encoder = T5Encoder.load(
        text_encoder or (beside if beside.is_dir() else conditions.t5_name),
        max_length=conditions.max_length,
    )
    text, numbers = read_config(path, partial(_conditioners, encoder=encoder))
    mapped = torch.device(device).type == "cpu" and dtype in (torch.float32, torch.bfloat16)
    release = _fill(folder, dit, vae, text, numbers, mapped=mapped)
    if mapped:
        convert_mapped(dit, dtype, release)
        convert_mapped(vae, autoencoder_dtype(dtype, device), release)
    network = AudioNetwork(
        dit,
        num_tokens=conditions.max_length,
        attended=conditions.attended,
        shared=conditions.shared,
    )
    check_parts(network, text, numbers, vae, source=folder)
    made = StableAudioParts(
        network=network,
        text=text,
        numbers=numbers,
        predicts=predicts,
        schedule=schedule,
        sampling=sampling,
        window_frames=read_config(path, num_samples_of) // vae.config.hop_length,
        renderer=WaveformLatentRenderer(autoencoder=vae),
        licence=stated_licence(folder),
    )
    return made if mapped else made.to(device, dtype)


def _fill(
    folder: Path,
    dit: AudioDiT,
    vae: Oobleck,
    text: TextConditioner,
    numbers: Mapping[str, ScaledNumber],
    *,
    mapped: bool,
) -> Release:
    """Gives all parts their weights from the one file; returns what releases its memory."""
    weights, release = _weights(folder, mapped=mapped)
    projection = f"{_CONDITIONS}prompt.proj_out."
    prefixes = {name: f"{_CONDITIONS}{name}." for name in numbers}
    known = (_DIT, _OOBLECK, projection, *prefixes.values())
    others = sorted(name for name in weights if not name.startswith(known))
    if others:
        shown = ", ".join(others[:3])
        raise ValueError(f"{folder} has {len(others)} weights of unknown parts, such as {shown}.")
    fill(dit, tools_dit_names(under(_DIT, weights)), source=folder)
    oobleck = tools_oobleck_names(under(_OOBLECK, weights), num_steps=len(vae.config.rates))
    fill(vae, oobleck, source=folder)
    fill_text(text, under(projection, weights), source=folder)
    for name, prefix in prefixes.items():
        fill_number(numbers[name], under(prefix, weights), source=folder)
    return release


def _weights(folder: Path, *, mapped: bool) -> tuple[Mapping[str, Tensor], Release]:
    path = folder / "model.safetensors"
    if path.is_file():
        if not mapped:
            return read_safetensors(path), nothing
        file = MappedFile(path)
        return file.tensors, file.release
    path = folder / "model.ckpt"
    if not path.is_file():
        raise ValueError(f"No weights found in {folder}. Expected model.safetensors.")
    package = read_pickle(path)
    weights = package.get("state_dict", package)
    if not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"{path} holds more than weights. Export the model without its training.")
    return weights, nothing


def _networks(settings: Config) -> tuple[AudioDiT, Oobleck]:
    with unfilled():
        return AudioDiT(tools_dit_config(settings)), Oobleck(tools_oobleck_config(settings))


def _conditioners(
    settings: Config, *, encoder: T5Encoder
) -> tuple[TextConditioner, dict[str, ScaledNumber]]:
    conditions = conditions_of(settings)
    dim, ranges = conditions.dim, conditions.ranges
    project = conditions.projected or encoder.dim != dim
    with unfilled():
        text = TextConditioner(encoder, dim, null="none", project=project)
        return text, {name: ScaledNumber(dim, low, high) for name, (low, high) in ranges.items()}
