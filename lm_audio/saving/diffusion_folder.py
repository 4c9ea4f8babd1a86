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
from safetensors.torch import save_file
from torch import Tensor

from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.text import SentencePieceTokenizer
from audio_tokenizers.weights import check_weights, read_safetensors, unfilled
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.description import (
    build_conditioners,
    describe_conditioners,
    text_encoders,
)
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.conditioners.text import OwnTextEncoder
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.generation.track import Source
from lm_audio.networks.dit import DiT, DiTConfig
from lm_audio.networks.packing import fill
from lm_audio.sampling import Denoising
from lm_audio.saving.stage_folder import both_modules, fitting, stored
from lm_audio.signals import Signal

KIND = "diffusion"
"""The kind of such a stage in the model's config.json; token language models have none."""
MODEL_TYPE = "lm-audio-dit"
_WEIGHTS = "model.safetensors"
_PLAIN = ("name", "predicts", "sees_known")
_STORED = {"window_frames": "context", "overlap_frames": "keep"}  # fields with another name in JSON


def describe_diffusion(stage: DiffusionStage) -> dict[str, Any]:
    """The fields of a stage, except its network and weights, for JSON."""
    if type(stage.network) is not DiT or stage.source_of is not None:
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
    network = _network(stage)
    write_config(folder, network.config, model_type=MODEL_TYPE)
    weights = both_modules(network, stage.conditioners).state_dict()
    save_file(
        {name: stored(f"{stage.name}: {name}", weights[name], half) for name in weights},
        folder / _WEIGHTS,
    )
    for name, encoder in text_encoders(stage.conditioners).items():
        if isinstance(encoder, OwnTextEncoder):
            encoder.tokenizer.save(folder / f"{name}.model")


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
    path = folder / _WEIGHTS
    weights = read_safetensors(path)
    config = read_config(folder, DiTConfig, model_type=MODEL_TYPE)
    with fitting(folder), unfilled():
        if config.transformer.num_layers > len(weights):  # building them could take forever
            raise ValueError(
                f"{path} has fewer than {config.transformer.num_layers} layers. Download it again."
            )
        network = DiT(config).eval()
        conditioners = build_conditioners(
            description["conditioners"],
            dim=config.transformer.dim,
            frozen=frozen,
            own_tokenizer=lambda name: SentencePieceTokenizer.load(folder / f"{name}.model"),
        ).eval()
        makes = dict(description["makes"])
        makes["rate"] = Fraction(*map(int, makes["rate"].split("/")))
        sampling = dict(description["sampling"])
        sampling["guidance_schedule"] = tuple(map(tuple, sampling["guidance_schedule"]))
        stage = DiffusionStage(
            network=network,
            conditioners=conditioners,
            makes=Signal(**makes),
            schedule=NoiseSchedule(**description["schedule"]),
            sampling=Denoising(**sampling),
            source=description["source"] and Source(**description["source"]),
            **{name: description[name] for name in _PLAIN},
            **{name: description[there] for name, there in _STORED.items()},
        )
        if stage.makes.width != config.width or stage.sees_known != config.sees_known:
            raise ValueError(f"The network in {folder} does not fit its stage. Download it again.")
    module = both_modules(network, conditioners)
    check_weights(weights, module.state_dict(), source=path)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "conditioners": {}}
    for name, weight in weights.items():
        part, _, own = name.partition(".")
        parts[part][own] = weight
    fill(network, parts["model"].items(), device=device, dtype=dtype)
    fill(conditioners, parts["conditioners"].items(), device=device, dtype=dtype)
    for null in module.modules():
        if isinstance(null, Null) and null.embedding.is_meta:  # its zeros are not saved
            null.embedding = torch.zeros(null.embedding.shape, device=device, dtype=dtype)
    return stage


def _network(stage: DiffusionStage) -> DiT:
    assert isinstance(stage.network, DiT)
    return stage.network
