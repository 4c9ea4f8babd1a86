"""Tokens of one clip in a safetensors file, with everything that decoding needs.

Tensors: `tokens` [K, T], int16 if they fit, and `gains` [chunks] for a codec that normalises. The
metadata names the codec.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from audio_tokenizers.atomic import replacing

if TYPE_CHECKING:
    from torch import Tensor

# torch is imported where it runs: the facts of a file are read without it.

FORMAT = "lm-audio tokens 1"


@dataclass(frozen=True, kw_only=True)
class EncodedAudio:
    """One clip as tokens.

    tokens: [K, T], int64; gains: [chunks] or None; num_samples: the clip's length at the codec's
    sample rate; codec: its name or path; identity: of its settings and weights.
    """

    tokens: "Tensor"
    gains: "Tensor | None"
    num_samples: int
    sample_rate: int
    codec: str
    identity: str

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class TokenInfo:
    """What a token file holds: tokens [num_codebooks, num_frames], and facts of `EncodedAudio`."""

    num_codebooks: int
    num_frames: int
    num_samples: int
    sample_rate: int
    codec: str
    identity: str

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return self.num_samples / self.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames per second, from the length; the last frame may be partly filled."""
        return self.num_frames / self.duration


def save_encoded(encoded: EncodedAudio, path: str | Path) -> None:
    import torch
    from safetensors.torch import save_file

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
    with _opened(path, "pt") as file:
        header = _header(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if tensors["tokens"].ndim != 2:
            raise ValueError("tokens are [K, T]")
        return EncodedAudio(tokens=tensors["tokens"].long(), gains=tensors.get("gains"), **header)


def token_info(path: str | Path) -> TokenInfo:
    """Reads what a token file holds, without torch."""
    with _opened(path, "numpy") as file:
        K, T = file.get_slice("tokens").get_shape()
        return TokenInfo(num_codebooks=K, num_frames=T, **_header(file))


@contextmanager
def _opened(path: str | Path, framework: str) -> Iterator[Any]:
    """A token file; raises ValueError for all others."""
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; pass a file from `lm-audio encode`.")
    try:
        with safe_open(path, framework) as file:
            if "tokens" not in file.keys():  # noqa: SIM118
                raise KeyError("tokens")
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is not a valid safetensors file: {error}.") from None
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{path} is not a token file; pass a file from `lm-audio encode`."
        ) from None


def _header(file: Any) -> dict[str, Any]:
    header: dict[str, Any] = json.loads((file.metadata() or {})["lm-audio"])
    if header.pop("format") != FORMAT:
        raise KeyError("format")
    if not all(isinstance(header[name], int) for name in ("num_samples", "sample_rate")):
        raise TypeError("numbers of samples are whole")
    return header
