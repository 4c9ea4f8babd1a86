"""The voices of Bark: tokens of a recording that prompt each of its stages.

Read from `.npz` files, or from a checkpoint whose `speaker_embeddings_path.json` lists three `.npy`
files per voice. NumPy files with objects raise an error: reading them could run code.

Shapes: K codebooks, T frames.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lm_audio.saving.files import read_json

INDEX_FILE = "speaker_embeddings_path.json"
_PARTS = ("semantic_prompt", "coarse_prompt", "fine_prompt")


@dataclass(frozen=True, kw_only=True, eq=False)
class BarkVoice:
    """The tokens of a recording, int64.

    Args:
        semantic: [T].
        coarse: [K, T], the first codebooks.
        fine: [K, T], all codebooks.
    """

    semantic: Tensor
    coarse: Tensor
    fine: Tensor


class BarkVoices:
    """Loads voices from a checkpoint or from files.

    Args:
        folder: of the checkpoint.
        hub_id: the source of voice files that are not in the folder.
        sizes: the number of semantic tokens, and of tokens per codebook.
        num_codebooks: the number of coarse codebooks, and of all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        hub_id: str | None = None,
        sizes: tuple[int, int],
        num_codebooks: tuple[int, int],
    ) -> None:
        self._folder = folder
        self._hub_id = hub_id
        self._semantic_size, self._codebook_size = sizes
        self._num_coarse, self._num_codebooks = num_codebooks

    def names(self) -> list[str]:
        """The names of the checkpoint's voices."""
        return sorted(self._index())

    def load(self, voice: "str | Path | Mapping[str, Any] | BarkVoice") -> BarkVoice:
        """Reads a voice, given as a name in the checkpoint, an `.npz` file, or three arrays."""
        if isinstance(voice, BarkVoice):
            return self._checked("the voice", voice)
        if isinstance(voice, Mapping):
            return self._from_arrays("the voice", voice)
        if str(voice) in (index := self._index()):
            return self._from_arrays(f"voice {voice}", self._named(str(voice), index[str(voice)]))
        path = Path(voice)
        if not path.is_file():
            known = ", ".join(sorted(index)[:8]) + (", ..." if len(index) > 8 else "")
            raise ValueError(
                f"Unknown voice {voice!r}. Give an .npz file, or one of the checkpoint's voices: "
                f"{known or 'none'}."
            )
        return self._from_arrays(str(path), _read_npz(path))

    def _index(self) -> dict[str, Any]:
        file = self._find(INDEX_FILE)
        index = {} if file is None else read_json(file)
        return {name: files for name, files in index.items() if isinstance(files, dict)}

    def _find(self, name: str) -> Path | None:
        if (self._folder / name).is_file():
            return self._folder / name
        if self._hub_id is None:
            return None
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(self._hub_id, name, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):  # not in the cache, and no connection
            return None
        return None if found is None else Path(found)

    def _named(self, name: str, files: Mapping[str, str]) -> dict[str, Any]:
        arrays = {}
        for part in _PARTS:
            relative = PurePosixPath(str(files.get(part, "")))
            if relative.is_absolute() or ".." in relative.parts:
                raise ValueError(
                    f"Invalid path {relative} in voice {name}: it is outside the checkpoint's "
                    "folder."
                )
            file = self._find(str(relative)) if part in files else None
            if file is None:
                raise ValueError(f"Voice {name} has no {part}. Download the checkpoint again.")
            arrays[part] = _read_npy(file)
        return arrays

    def _from_arrays(self, name: str, arrays: Mapping[str, Any]) -> BarkVoice:
        missing = [part for part in _PARTS if part not in arrays]
        if missing:
            raise ValueError(
                f"{name} has no {', '.join(missing)}. A voice needs {', '.join(_PARTS)}."
            )
        tensors = []
        for part in _PARTS:
            array = np.asarray(arrays[part])
            if array.dtype.kind not in "iu":
                raise ValueError(f"{part} of {name} must contain integers, got {array.dtype}.")
            tensors.append(torch.from_numpy(array.astype(np.int64)))
        semantic, coarse, fine = tensors
        return self._checked(name, BarkVoice(semantic=semantic, coarse=coarse, fine=fine))

    def _checked(self, name: str, voice: BarkVoice) -> BarkVoice:
        expected = {
            "semantic": ((), self._semantic_size),
            "coarse": ((self._num_coarse,), self._codebook_size),
            "fine": ((self._num_codebooks,), self._codebook_size),
        }
        for part, (first, size) in expected.items():
            tokens: Tensor = getattr(voice, part)
            if tokens.dim() != len(first) + 1 or tuple(tokens.shape[:-1]) != first:
                wanted = [*first, "T"]
                raise ValueError(
                    f"Expected {part}_prompt of shape [{', '.join(map(str, wanted))}] in {name}, "
                    f"got {list(tokens.shape)}."
                )
            if not tokens.numel() or int(tokens.min()) < 0 or int(tokens.max()) >= size:
                raise ValueError(
                    f"{part}_prompt of {name} must contain tokens between 0 and {size - 1}, and "
                    "must not be empty."
                )
        return voice


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name in _PARTS}
    except (
        ValueError, OSError, EOFError, TypeError, NotImplementedError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise _not_numbers(path) from error


def _read_npy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _not_numbers(path) from error


def _not_numbers(path: Path) -> ValueError:
    return ValueError(f"{path} is not a valid NumPy file of plain numbers.")
