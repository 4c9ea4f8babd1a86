"""Frozen text encoders: conditioners share one, which is saved once beside them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.conditioners.text import T5Encoder, TextEncoder

FrozenEncoder = T5Encoder | SentenceEncoder

KINDS: dict[str, type[T5Encoder] | type[SentenceEncoder]] = {
    "t5": T5Encoder,
    "sentence": SentenceEncoder,
}


def kind_of(encoder: FrozenEncoder) -> str:
    return next(kind for kind, cls in KINDS.items() if isinstance(encoder, cls))


def shared(encoders: Iterable[TextEncoder]) -> FrozenEncoder | None:
    """The frozen encoder, possibly loaded more than once, of all texts; None if there is none."""
    found = [encoder for encoder in encoders if isinstance(encoder, FrozenEncoder)]
    distinct = {id(encoder): encoder for encoder in found}.values()
    if len(distinct) > 1 and len({(e.identity, e.max_length) for e in distinct}) > 1:
        raise ValueError(
            "A model can have only one frozen text encoder. Use the same one for all texts."
        )
    return found[0] if found else None


def describe_frozen(encoder: FrozenEncoder) -> dict[str, Any]:
    """The settings that `load_frozen` needs besides the folder of `encoder.save`."""
    return {"kind": kind_of(encoder), "max_length": encoder.max_length}


def load_frozen(
    description: dict[str, Any], folder: Path, *, device: torch.device | str
) -> FrozenEncoder:
    kind = description.get("kind", "t5")  # older files have no kind
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"Unknown kind {kind!r} of text encoder {folder}. Choose from: {known}.")
    encoder = KINDS[kind].load(folder, device=device)
    encoder.max_length = int(description["max_length"])
    return encoder
