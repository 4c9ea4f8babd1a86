"""A diffusion stage with our own network in lm-audio's own format.

latents/config.json         the shape of the network
latents/model.safetensors   the weights of the network and of the conditioners
latents/text.model          the tokenizer of the text encoder trained with it, if any
"""

from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.weights import unfilled
from lm_audio.conditioners.aligned_signal import AlignedSignal
from lm_audio.conditioners.description import describe_conditioners
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.generation.sound_stage import SoundStage
from lm_audio.generation.track import Source
from lm_audio.networks.dit import DiT, DiTConfig
from lm_audio.networks.unet1d import UNet1d, UNet1dConfig
from lm_audio.sampling import Denoising
from lm_audio.saving.stage_weights import (
    check_depth,
    fill_weights,
    fitting,
    read_conditioners,
    read_weights,
    write_weights,
)
from lm_audio.signals import Signal

KIND, SOUND = "diffusion", "sound"
"""The kinds of such a stage, and of one without a model before it, in the model's config.json;
token language models have none."""
_MODEL_TYPES = {DiT: "lm-audio-dit", UNet1d: "lm-audio-unet1d"}
_PLAIN = ("name", "predicts", "sees_known")
_STORED = {"window_frames": "context", "overlap_frames": "keep"}  # fields with another name in JSON
_LENGTHS = ("multiple_of", "min_frames")  # 1 in older folders, which do not have them


def describe_diffusion(stage: DiffusionStage) -> dict[str, Any]:
    """The fields of a stage, except its network and weights, for JSON."""
    if type(stage.network) not in _MODEL_TYPES or stage.source_of is not None or stage.timing:
        raise ValueError(
            f"The network of the {stage.name} stage is a {type(stage.network).__name__}, which "
            "cannot be saved. Use the checkpoint that it was loaded from."
        )
    return {
        "kind": KIND,
        "network": _MODEL_TYPES[type(stage.network)],
        **{name: getattr(stage, name) for name in _PLAIN},
        **{there: getattr(stage, name) for name, there in _STORED.items()},
        **{name: getattr(stage, name) for name in _LENGTHS},
        "makes": _describe_signal(stage.makes),
        "schedule": asdict(stage.schedule),
        "sampling": asdict(stage.sampling),
        "source": None if stage.source is None else asdict(stage.source),
        "conditioners": describe_conditioners(stage.conditioners),
    }


def describe_sound(stage: SoundStage) -> dict[str, Any]:
    """The fields of a stage without a model, for `sound_stage`."""
    return {"kind": SOUND, "name": stage.name, "makes": _describe_signal(stage.makes)}


def sound_stage(description: Mapping[str, Any]) -> SoundStage:
    """The stage of a description."""
    return SoundStage(name=description["name"], makes=_signal(description["makes"]))


def save_diffusion(stage: DiffusionStage, folder: Path, *, half: bool) -> None:
    """Writes the network, weights and tokenizers of a stage.

    Args:
        half: store weights as float16.
    """
    folder.mkdir()
    network = stage.network
    assert isinstance(network, DiT | UNet1d)
    write_config(folder, network.config, model_type=_MODEL_TYPES[type(network)])
    write_weights(stage.name, network, stage.conditioners, folder, half=half)


def load_diffusion(
    description: Mapping[str, Any],
    folder: Path,
    *,
    frozen: FrozenEncoder | None,
    device: torch.device | str,
    dtype: torch.dtype,
) -> DiffusionStage:
    """Reads a stage without duplicating weights in memory.

    Linear layers are not packed: a window has hundreds of rows, for which plain products are as
    fast.

    Args:
        frozen: the shared text encoder, if this stage needs it.
    """
    weights = read_weights(folder)
    config = _config(description, folder)
    check_depth(weights, folder, _depth(config))
    with fitting(folder), unfilled():
        network, width = _network(config)
        conditioners = read_conditioners(
            description["conditioners"], folder, dim=width, frozen=frozen
        )
        stage = _stage(network.eval(), conditioners, description)
        if not _fits(stage, config):
            raise ValueError(f"The network in {folder} does not fit its stage. Download it again.")
    fill_weights(network, conditioners, weights, folder, device=device, dtype=dtype)
    return stage


def _config(description: Mapping[str, Any], folder: Path) -> DiTConfig | UNet1dConfig:
    if description.get("network") == _MODEL_TYPES[UNet1d]:  # older folders have only a DiT
        return read_config(folder, UNet1dConfig, model_type=_MODEL_TYPES[UNet1d])
    return read_config(folder, DiTConfig, model_type=_MODEL_TYPES[DiT])


def _depth(config: DiTConfig | UNet1dConfig) -> int:
    return len(config.widths) if isinstance(config, UNet1dConfig) else config.transformer.num_layers


def _network(config: DiTConfig | UNet1dConfig) -> tuple[DiT | UNet1d, int]:
    """The network with new weights, and the width of its conditions."""
    if isinstance(config, UNet1dConfig):
        return UNet1d(config), config.context_width
    return DiT(config), config.transformer.dim


def _fits(stage: DiffusionStage, config: DiTConfig | UNet1dConfig) -> bool:
    """Whether a stage has the inputs and outputs of its network."""
    if isinstance(config, DiTConfig):
        return (stage.makes.width, stage.sees_known) == (config.width, config.sees_known)
    conditioners, fuse = stage.conditioners, stage.conditioners.fuse
    aligned = [x for x in conditioners.children() if isinstance(x, AlignedSignal)]
    stacked = sum(x.dim for x in aligned)
    given = (stage.makes.width, stage.makes.width, stacked, "cross" in fuse.values())
    takes = (config.in_channels, config.out_channels, config.stacked_channels)
    return given == (*takes, config.context_width > 0) and not stage.sees_known


def _stage(
    network: DiT | UNet1d, conditioners: Conditioners, description: Mapping[str, Any]
) -> DiffusionStage:
    """The stage of a description."""
    return DiffusionStage(
        network=network,
        conditioners=conditioners,
        makes=_signal(description["makes"]),
        schedule=NoiseSchedule(**description["schedule"]),
        sampling=Denoising(**description["sampling"]),
        source=description["source"] and Source(**description["source"]),
        **{name: description[name] for name in _PLAIN},
        **{name: description[there] for name, there in _STORED.items()},
        **{name: description[name] for name in _LENGTHS if name in description},
    )


def _describe_signal(signal: Signal) -> dict[str, Any]:
    return asdict(signal) | {"rate": "{}/{}".format(*signal.rate.as_integer_ratio())}


def _signal(description: Mapping[str, Any]) -> Signal:
    return Signal(**{**description, "rate": Fraction(*map(int, description["rate"].split("/")))})
