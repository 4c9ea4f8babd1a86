"""One stage in lm-audio's own format: its description, weights and text tokenizers.

semantic/config.json         the shape of the model
semantic/model.safetensors   the weights of the model and of the conditioners
semantic/text.model          the tokenizer of the text encoder trained with it, if any
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.atomic import replacing_folder
from audio_tokenizers.config_file import read_config, write_config
from audio_tokenizers.weights import unfilled
from lm_audio.conditioners.description import (
    describe_conditioners,
    text_encoders,
)
from lm_audio.conditioners.frozen import FrozenEncoder, describe_frozen, load_frozen, shared
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Source, Stage
from lm_audio.networks.packing import Kind
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.patterns import Pattern
from lm_audio.sampling import Sampling, Unmasking
from lm_audio.saving.stage_weights import (
    check_depth,
    fill_weights,
    fitting,
    read_conditioners,
    read_weights,
    write_weights,
)

MODEL_TYPE = "lm-audio-token-lm"
_DESCRIPTION, _TEXT_ENCODER = "stage.json", "text_encoder"  # of a stage without a model
_PLAIN = (
    "name", "start_token", "end_token", "num_choices", "token_kind", "first_codebook",
)  # fmt: skip
_MASKED_PLAIN = ("name", "span", "reach", "whole_windows", "token_kind", "first_codebook")
_STORED = {"window_frames": "context", "overlap_frames": "keep"}  # fields with another name in JSON


def describe_stage(stage: Stage) -> dict[str, Any]:
    """The fields of a stage, except its model and weights, for JSON."""
    if type(stage) not in (LMStage, MaskedStage) or type(stage.model) is not TokenLM:  # type: ignore[attr-defined]
        raise ValueError(
            f"The {stage.name} stage is a {type(stage).__name__}, which cannot be saved. Use the "
            "checkpoint that it was loaded from."
        )
    assert isinstance(stage, TokenStage)
    shared = {
        **{stored: getattr(stage, name) for name, stored in _STORED.items()},
        "frame_rate": "{}/{}".format(*stage.frame_rate.as_integer_ratio()),
        "sampling": asdict(stage.sampling),
        "source": None if stage.source is None else asdict(stage.source),
        "conditioners": describe_conditioners(stage.conditioners),
    }
    if isinstance(stage, MaskedStage):
        return {"kind": "masked", **{x: getattr(stage, x) for x in _MASKED_PLAIN}, **shared}
    return {
        **{name: getattr(stage, name) for name in _PLAIN},
        "repeats": not stage.deduplicated,
        "pattern": asdict(stage.pattern),
        **shared,
    }


def save_stage(stage: TokenStage, folder: Path, *, half: bool) -> None:
    """Writes the stage's model, weights and tokenizers.

    Args:
        half: store weights as float16.
    """
    folder.mkdir()
    write_config(folder, stage.model.config, model_type=MODEL_TYPE)
    write_weights(stage.name, stage.model, stage.conditioners, folder, half=half)


def load_stage(
    description: dict[str, Any],
    folder: Path,
    *,
    frozen: FrozenEncoder | None,
    device: torch.device | str,
    dtype: torch.dtype,
    packing: Kind | None = None,
) -> TokenStage:
    """Reads a stage without duplicating weights in memory.

    Args:
        packing: of the language model's linear layers.
        frozen: the shared text encoder, if this stage needs it.
    """
    weights = read_weights(folder)
    config = read_config(folder, TokenLMConfig, model_type=MODEL_TYPE)
    shape = config.transformer
    check_depth(weights, folder, shape.num_layers)
    with fitting(folder), unfilled():
        settings = dict(description)
        model = TokenLM(config).eval()
        conditioners = read_conditioners(
            settings["conditioners"], folder, dim=shape.dim, frozen=frozen
        )
        stage = _stage(model, conditioners, settings)
    fill_weights(model, conditioners, weights, folder, device=device, dtype=dtype, packing=packing)
    return stage


def _stage(model: TokenLM, conditioners: Conditioners, settings: dict[str, Any]) -> TokenStage:
    """The stage of a description."""
    settings |= {name: settings.pop(stored) for name, stored in _STORED.items()}
    settings |= {
        "frame_rate": Fraction(*map(int, settings["frame_rate"].split("/"))),
        "source": settings["source"] and Source(**settings["source"]),
        "conditioners": conditioners,
    }
    kind, sampling = settings.pop("kind", "language model"), settings.pop("sampling")
    if kind == "masked":
        return MaskedStage(model=model, sampling=Unmasking(**sampling), **settings)
    settings["deduplicated"] = not settings.pop("repeats")
    settings["pattern"] = Pattern(**settings["pattern"])
    return LMStage(model=model, sampling=Sampling(**sampling), **settings)


def write_stage(
    stage: TokenStage, folder: Path, *, tokens: Mapping[str, str] | None = None
) -> None:
    """Writes a single stage atomically, with its frozen text encoder, if any.

    Args:
        tokens: the identities of the tokenizers of its training data, by kind.
    """
    frozen = shared(text_encoders(stage.conditioners).values())
    with replacing_folder(folder) as new:
        save_stage(stage, new / stage.name, half=False)
        description = describe_stage(stage) | {"tokens": dict(tokens or {})}
        if frozen is not None:
            frozen.save(new / _TEXT_ENCODER)
            description["text_encoder"] = describe_frozen(frozen)
        (new / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def read_stage(
    folder: Path,
    *,
    tokens: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
) -> TokenStage:
    """Reads a stage that `write_stage` wrote.

    Args:
        tokens: the identities of the tokenizers in use, by kind; raises ValueError if the stage was
            trained with others.
    """
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"No readable {_DESCRIPTION} in {folder}. Give the folder of a stage."
        ) from None
    frozen = None
    with fitting(path):
        name, text_encoder = description["name"], description.pop("text_encoder", None)
        known = description.pop("tokens", {}).items()
    for kind, identity in known:
        if (other := (tokens or {}).get(kind, identity)) != identity:
            raise ValueError(
                f"{folder} was trained on {kind} tokens of {identity}, but the tokens here are "
                f"from {other}. Train it on these, or use another stage."
            )
    if text_encoder is not None:
        with fitting(path):
            frozen = load_frozen(text_encoder, folder / _TEXT_ENCODER, device=device)
    return load_stage(description, folder / name, frozen=frozen, device=device, dtype=torch.float32)
