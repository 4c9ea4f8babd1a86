"""Text encoders that are not trained: conditioners share one, and it is saved beside them, once."""

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
    """The one frozen encoder of all texts, which may have been loaded more than once, if any."""
    found = [encoder for encoder in encoders if isinstance(encoder, FrozenEncoder)]
    distinct = {id(encoder): encoder for encoder in found}.values()
    if len(distinct) > 1 and len({(e.identity, e.max_length) for e in distinct}) > 1:
        raise ValueError(
            "Texts are read by different encoders that are not trained, and only one can be "
            "saved; give all the same."
        )
    return found[0] if found else None


def describe_frozen(encoder: FrozenEncoder) -> dict[str, Any]:
    """What `load_frozen` needs beside the folder that `encoder.save` wrote."""
    return {"kind": kind_of(encoder), "max_length": encoder.max_length}


def load_frozen(
    description: dict[str, Any], folder: Path, *, device: torch.device | str
) -> FrozenEncoder:
    kind = description.get("kind", "t5")  # once there were T5s alone
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(f"Unknown kind {kind!r} of the text encoder {folder}; known are: {known}.")
    encoder = KINDS[kind].load(folder, device=device)
    encoder.max_length = int(description["max_length"])
    return encoder
