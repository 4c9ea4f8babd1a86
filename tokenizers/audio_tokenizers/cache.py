"""Tokens on disk, so that no audio is encoded twice.

The key of an entry is the content of the audio, the identity of the tokenizer (which holds its
weights' hash) and the number of codebooks: a changed tokenizer never meets old tokens. Every entry
is one file that carries its whole key and a checksum; what does not match is made again. Any number
of processes may share a folder. Entries are never removed: delete the folder to empty it.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.identity import hash_tensor
from audio_tokenizers.protocol import AcousticTokenizer, SemanticTokenizer

# Part of every key: raise it when the layout of the files changes.
VERSION = 1
MAX_INT16 = 2**15 - 1


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Tokens [B, K, T], int64, and gains [B, chunks] of a codec that normalises its input."""

    tokens: Tensor
    gains: Tensor | None


class TokenCache:
    """A folder of tokens; it and its files are made as they are needed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def encode(
        self,
        tokenizer: AcousticTokenizer | SemanticTokenizer,
        samples: Tensor,
        *,
        num_codebooks: int | None = None,
    ) -> Encoded:
        """What `tokenizer` makes of samples [B, C, N] at its rate, from disk where it is there.

        Each of the B waveforms has its own entry and is encoded alone, so that its tokens never
        depend on its neighbours. The result is on the device of `samples`.

        Args:
            num_codebooks: for an acoustic tokenizer, as in its `encode`.
        """
        if samples.dim() != 3 or 0 in samples.shape[:2]:
            raise ValueError(f"The samples have shape {tuple(samples.shape)}; give [B, C, N].")
        is_acoustic = hasattr(tokenizer, "gains")
        if num_codebooks is not None and not is_acoustic:
            raise ValueError(
                f"num_codebooks={num_codebooks} has no effect on a semantic tokenizer; drop it."
            )
        if num_codebooks is None and is_acoustic:
            num_codebooks = tokenizer.num_codebooks  # type: ignore[union-attr]
        identity = tokenizer.identity  # once: it may hash all weights
        items = [self._encode_one(tokenizer, identity, row[None], num_codebooks) for row in samples]
        gains = [item.gains for item in items if item.gains is not None]
        return Encoded(
            tokens=torch.cat([item.tokens for item in items]).to(samples.device),
            gains=torch.cat(gains).to(samples.device) if gains else None,
        )

    def path(self, audio_hash: str, tokenizer_identity: str, num_codebooks: int | None) -> Path:
        """The file of an entry, whether or not it exists."""
        name = hashlib.sha256(_key(audio_hash, tokenizer_identity, num_codebooks).encode())
        digest = name.hexdigest()
        return self.folder / digest[:2] / digest[2:4] / f"{digest}.safetensors"

    def _encode_one(
        self,
        tokenizer: AcousticTokenizer | SemanticTokenizer,
        identity: str,
        samples: Tensor,
        num_codebooks: int | None,
    ) -> Encoded:
        parts = (hash_tensor(samples), identity, num_codebooks)
        path, key = self.path(*parts), _key(*parts)
        found = _read(path, key)
        if found is not None:
            return found
        if num_codebooks is None:
            encoded = Encoded(tokens=tokenizer.encode(samples).cpu(), gains=None)
        else:
            gains = tokenizer.gains(samples)  # type: ignore[union-attr]
            tokens = tokenizer.encode(samples, num_codebooks=num_codebooks)  # type: ignore[call-arg]
            encoded = Encoded(tokens=tokens.cpu(), gains=None if gains is None else gains.cpu())
        _write(path, key, encoded)
        return encoded


def _key(audio_hash: str, tokenizer_identity: str, num_codebooks: int | None) -> str:
    return json.dumps([VERSION, audio_hash, tokenizer_identity, num_codebooks])


def _write(path: Path, key: str, encoded: Encoded) -> None:
    tokens = encoded.tokens
    fits = tokens.numel() == 0 or (int(tokens.min()) >= 0 and int(tokens.max()) <= MAX_INT16)
    tensors = {"tokens": (tokens.to(torch.int16) if fits else tokens).contiguous()}
    if encoded.gains is not None:
        tensors["gains"] = encoded.gains.contiguous()
    with replacing(path) as temporary:
        # One string, since safetensors writes several in an order of chance.
        save_file(tensors, temporary, metadata={"entry": f"{key}\n{_checksum(tensors)}"})


def _read(path: Path, key: str) -> Encoded | None:
    """The entry; None where there is none, or, with a warning, where it cannot be trusted."""
    try:
        # Not safe_open: it opens the file twice, and another process may replace it in between.
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        tensors = load(data)
    except SafetensorError as error:
        _warn(path, f"is damaged ({error})")
        return None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # `load` checked it
    entry = header.get("__metadata__", {}).get("entry", "")
    found_key, _, checksum = entry.partition("\n")
    if found_key != key:
        _warn(path, "belongs to other audio or to another tokenizer")
        return None
    if checksum != _checksum(tensors):
        _warn(path, "is damaged (its checksum differs)")
        return None
    return Encoded(tokens=tensors["tokens"].to(torch.int64), gains=tensors.get("gains"))


def _checksum(tensors: dict[str, Tensor]) -> str:
    return json.dumps([[name, hash_tensor(tensors[name])] for name in sorted(tensors)])


def _warn(path: Path, reason: str) -> None:
    warnings.warn(f"The token cache file {path} {reason}; it is made again.", stacklevel=4)
