"""Tokens of one clip in a safetensors file, with everything that decoding needs.

Tensors: `tokens` [K, T], int16 if they fit, and `gains` [chunks] for a codec that normalises. The
metadata names the codec.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing

FORMAT = "lm-audio tokens 1"


@dataclass(frozen=True, kw_only=True)
class EncodedAudio:
    """One clip as tokens.

    tokens: [K, T], int64; gains: [chunks] or None; num_samples: the clip's length at the codec's
    sample rate; codec: its name or path; identity: of its settings and weights.
    """

    tokens: Tensor
    gains: Tensor | None
    num_samples: int
    sample_rate: int
    codec: str
    identity: str

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


def save_encoded(encoded: EncodedAudio, path: str | Path) -> None:
    tokens = encoded.tokens
    if tokens.numel() and int(tokens.min()) >= 0 and int(tokens.max()) < 2**15:
        tokens = tokens.to(torch.int16)
    tensors = {"tokens": tokens.contiguous()}
    if encoded.gains is not None:
        tensors["gains"] = encoded.gains.contiguous()
    header = {
        "format": FORMAT,
        "num_samples": encoded.num_samples,
        "sample_rate": encoded.sample_rate,
        "codec": encoded.codec,
        "identity": encoded.identity,
    }
    with replacing(path) as temporary:
        # One string, since safetensors writes several metadata entries in random order.
        save_file(tensors, temporary, metadata={"lm-audio": json.dumps(header)})


def load_encoded(path: str | Path) -> EncodedAudio:
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; pass a file from `lm-audio encode`.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file: {error}.") from None
    try:
        header = json.loads(metadata["lm-audio"])
        if header.pop("format") != FORMAT:
            raise KeyError("format")
        tokens = tensors["tokens"].long()
        return EncodedAudio(tokens=tokens, gains=tensors.get("gains"), **header)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path} is not a token file; pass a file from `lm-audio encode`."
        ) from None
