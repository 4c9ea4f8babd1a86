"""Token cache on disk, to avoid encoding the same audio twice.

An entry is a file named by a hash of its key: the content of the audio, the identity of the
tokenizer (which includes a hash of its weights) and the settings that change the tokens. Processes
can share a folder. Entries are never evicted; delete the folder to clear it.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing

# Part of every key: raise it when the layout of the files changes.
VERSION = 2


class TokenCache:
    """A folder of tokens, created on the first write."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(
        self, key: Sequence[str | int], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Returns the tensors stored under `key`, computing and storing them if needed.

        Stored tensors are on the CPU. Damaged files are computed again with a warning.
        """
        path = self.path(key)
        stored = _read(path)
        if stored is None:
            stored = compute()
            with replacing(path) as temporary:
                save_file({name: _compact(each) for name, each in stored.items()}, temporary)
        return stored

    def path(self, key: Sequence[str | int]) -> Path:
        """The file of an entry, whether or not it exists."""
        digest = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.safetensors"


def _compact(tensor: Tensor) -> Tensor:
    """int64 as int16 where all values fit, which tokens do."""
    tensor = tensor.cpu().contiguous()
    short = tensor.to(torch.int16)
    is_exact = tensor.dtype == torch.int64 and torch.equal(short.to(torch.int64), tensor)
    return short if is_exact else tensor


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        # Not safe_open: it opens the file twice, and another process may replace it in between.
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        message = f"The token cache file {path} is damaged ({error}); encoding again."
        warnings.warn(message, stacklevel=3)
        return None
    return {name: t.long() if t.dtype == torch.int16 else t for name, t in tensors.items()}
