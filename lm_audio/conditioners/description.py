"""Serialises conditioners for config.json.

A description has everything except the weights, and the width if that is the model's: the name of
a type in a fixed table, and its settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from torch import nn

from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.conditioners.aligned_signal import AlignedSignal, LevelConditioner
from lm_audio.conditioners.frozen import FrozenEncoder, kind_of
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.melody import MelodyConditioner
from lm_audio.conditioners.number import NumberConditioner
from lm_audio.conditioners.text import (
    OwnTextEncoder,
    OwnTextEncoderConfig,
    TextConditioner,
    TextEncoder,
)
from lm_audio.conditioners.tokens import AlignedTokens, TokenConditioner

Description = dict[str, Any]

_TYPES: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "aligned_signal": (AlignedSignal, ("dim",)),
    "aligned_tokens": (AlignedTokens, ("num_tokens", "look_ahead")),
    "label": (LabelConditioner, ("labels",)),
    "level": (LevelConditioner, ("dim", "most", "default")),
    "melody": (MelodyConditioner, ("sample_rate", "window", "seconds", "num_classes")),
    "number": (NumberConditioner, ("low", "high", "num_waves")),
    "text": (TextConditioner, ()),
    "tokens": (TokenConditioner, ("num_tokens", "num_codebooks", "deduplicate")),
}
"""The classes by name, and their plain settings."""


def describe_conditioners(conditioners: Conditioners) -> dict[str, Description]:
    """The descriptions by name, for `build_conditioners`."""
    return {
        name: {**_describe(name, conditioners[name]), "fuse": fuse}
        for name, fuse in conditioners.fuse.items()
    }


def build_conditioners(
    descriptions: Mapping[str, Description],
    *,
    dim: int,
    frozen: FrozenEncoder | None,
    own_tokenizer: Callable[[str], SentencePieceTokenizer],
) -> Conditioners:
    """Conditioners of width `dim` with new weights.

    Args:
        frozen: the shared frozen text encoder, for conditioners that use one.
        own_tokenizer: returns the tokenizer of a trained text encoder by condition name.
    """
    made, fuse = dict[str, nn.Module](), {}
    for name, description in descriptions.items():
        settings = dict(description)
        fuse[name], kind = settings.pop("fuse"), settings.pop("type")
        if kind not in _TYPES:
            known = ", ".join(_TYPES)
            raise ValueError(f"Unknown type {kind!r} of condition {name!r}. Known types: {known}.")
        if kind == "text":
            encoder = settings["encoder"]
            own = isinstance(encoder, dict)
            settings["encoder"] = _own(encoder, own_tokenizer(name)) if own else frozen
        if "ratio" in settings:
            settings["ratio"] = Fraction(*map(int, settings["ratio"].split("/")))
        made[name] = _TYPES[kind][0](**{"dim": dim, **settings})
    return Conditioners(made, fuse)


def text_encoders(conditioners: Conditioners) -> dict[str, TextEncoder]:
    """The text encoders by condition name."""
    every = {name: conditioners[name] for name in conditioners.fuse}
    return {name: one.encoder for name, one in every.items() if isinstance(one, TextConditioner)}


def _describe(name: str, conditioner: nn.Module) -> Description:
    names = {cls: kind for kind, (cls, _) in _TYPES.items()}
    kind = names.get(type(conditioner))
    if kind is None:
        raise ValueError(
            f"The conditioner {name!r} is a {type(conditioner).__name__}, which cannot be saved. "
            f"Supported types: {', '.join(_TYPES)}."
        )
    description: Description = {"type": kind}
    description |= {setting: getattr(conditioner, setting) for setting in _TYPES[kind][1]}
    if isinstance(conditioner, AlignedTokens | AlignedSignal):
        return {**description, "ratio": "{}/{}".format(*conditioner.ratio.as_integer_ratio())}
    if isinstance(conditioner, TextConditioner):
        description["encoder"] = _describe_encoder(name, conditioner.encoder)
        description["project"] = isinstance(conditioner.projection, nn.Linear)
    if isinstance(conditioner, MelodyConditioner | LevelConditioner):  # without a choice of null
        return description
    return {**description, "null": conditioner.null.kind}  # type: ignore[union-attr]


def _describe_encoder(name: str, encoder: TextEncoder) -> str | Description:
    if isinstance(encoder, FrozenEncoder):
        return kind_of(encoder)
    if isinstance(encoder, OwnTextEncoder):
        return asdict(encoder.config)
    raise ValueError(
        f"The text encoder of {name!r} is a {type(encoder).__name__}, which cannot be saved. "
        "Supported types: T5Encoder, SentenceEncoder, OwnTextEncoder."
    )


def _own(config: Description, tokenizer: SentencePieceTokenizer) -> OwnTextEncoder:
    return OwnTextEncoder(OwnTextEncoderConfig(**config), tokenizer)
