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
from lm_audio.conditioners.description import (
    describe_conditioners,
)
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.generation.track import Source
from lm_audio.networks.dit import DiT, DiTConfig
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

KIND = "diffusion"
"""The kind of such a stage in the model's config.json; token language models have none."""
MODEL_TYPE = "lm-audio-dit"
_PLAIN = ("name", "predicts", "sees_known")
_STORED = {"window_frames": "context", "overlap_frames": "keep"}  # fields with another name in JSON


def describe_diffusion(stage: DiffusionStage) -> dict[str, Any]:
    """The fields of a stage, except its network and weights, for JSON."""
    if type(stage.network) is not DiT or stage.source_of is not None or stage.timing:
        raise ValueError(
            f"The network of the {stage.name} stage is a {type(stage.network).__name__}, which "
            "cannot be saved. Use the checkpoint that it was loaded from."
        )
    makes = asdict(stage.makes)
    return {
        "kind": KIND,
        **{name: getattr(stage, name) for name in _PLAIN},
        **{there: getattr(stage, name) for name, there in _STORED.items()},
        "makes": makes | {"rate": "{}/{}".format(*stage.makes.rate.as_integer_ratio())},
        "schedule": asdict(stage.schedule),
        "sampling": asdict(stage.sampling),
        "source": None if stage.source is None else asdict(stage.source),
        "conditioners": describe_conditioners(stage.conditioners),
    }


def save_diffusion(stage: DiffusionStage, folder: Path, *, half: bool) -> None:
    """Writes the network, weights and tokenizers of a stage.

    Args:
        half: store weights as float16.
    """
    folder.mkdir()
    assert isinstance(stage.network, DiT)
    write_config(folder, stage.network.config, model_type=MODEL_TYPE)
    write_weights(stage.name, stage.network, stage.conditioners, folder, half=half)


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
    config = read_config(folder, DiTConfig, model_type=MODEL_TYPE)
    shape = config.transformer
    check_depth(weights, folder, shape.num_layers)
    with fitting(folder), unfilled():
        network = DiT(config).eval()
        conditioners = read_conditioners(
            description["conditioners"], folder, dim=shape.dim, frozen=frozen
        )
        stage = _stage(network, conditioners, description)
        if stage.makes.width != config.width or stage.sees_known != config.sees_known:
            raise ValueError(f"The network in {folder} does not fit its stage. Download it again.")
    fill_weights(network, conditioners, weights, folder, device=device, dtype=dtype)
    return stage


def _stage(
    network: DiT, conditioners: Conditioners, description: Mapping[str, Any]
) -> DiffusionStage:
    """The stage of a description."""
    makes = dict(description["makes"])
    makes["rate"] = Fraction(*map(int, makes["rate"].split("/")))
    return DiffusionStage(
        network=network,
        conditioners=conditioners,
        makes=Signal(**makes),
        schedule=NoiseSchedule(**description["schedule"]),
        sampling=Denoising(**description["sampling"]),
        source=description["source"] and Source(**description["source"]),
        **{name: description[name] for name in _PLAIN},
        **{name: description[there] for name, there in _STORED.items()},
    )
