"""Reads weights without running code, and checks that they match the model."""

import json
import mmap
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from audio_tokenizers.hub import hub_access


@contextmanager
def unfilled() -> Iterator[None]:
    """Builds modules without values, for weights that are assigned to them."""
    with torch.device("meta"), _NoNormal():
        yield


class _NoNormal(TorchFunctionMode):
    """Leaves out normal_, for which torch imports its compiler on the meta device: 2 seconds."""

    def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ == "normal_":  # of a tensor, or of nn.init with the tensor by name
            return (*args, *(kwargs or {}).values())[0]
        return func(*args, **(kwargs or {}))


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Reads all tensors of a safetensors file."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _not_whole(path) from error


_MOST_NAMES = 8  # in a message
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class MappedFile:
    """The tensors of a safetensors file, which occupy memory only while they are used.

    They must not be changed.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with safe_open(path, framework="pt"):  # checks the header and the length
                pass
        except SafetensorError as error:
            raise _not_whole(path) from error
        with Path(path).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        length = int.from_bytes(self._map[:8], "little")
        header = json.loads(self._map[8 : 8 + length])
        header.pop("__metadata__", None)
        self.tensors = {name: self._tensor(one, 8 + length) for name, one in header.items()}

    def release(self) -> None:
        """Gives the memory back; the next use reads the file again."""
        if hasattr(self._map, "madvise"):  # not on Windows
            self._map.madvise(mmap.MADV_DONTNEED)

    def _tensor(self, entry: Mapping[str, Any], first: int) -> Tensor:
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"Unsupported type {entry['dtype']} of a tensor in safetensors.")
        dtype, (start, stop) = _DTYPES[entry["dtype"]], entry["data_offsets"]
        if start == stop:
            return torch.empty(entry["shape"], dtype=dtype)
        count = (stop - start) // dtype.itemsize
        flat = torch.frombuffer(self._map, dtype=dtype, count=count, offset=first + start)
        return flat.view(entry["shape"])


def read_pickle(path: str | Path, *, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """Reads a dict in torch's pickle format; tensors are memory-mapped.

    Args:
        allowed: classes to allow besides tensors and plain values, as in `safe_globals`.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        with Path(path).open("rb") as file:
            if not is_zip and file.read(1) != b"\x80":
                raise EOFError("Neither a complete zip file nor a pickle.")
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(one.compress_type != zipfile.ZIP_STORED for one in archive.infolist()):
                    raise ValueError("PyTorch does not compress, and this may not fit in memory.")
        with torch.serialization.safe_globals(list(allowed)):
            package = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Refused to read {path}: it is damaged, or holds objects that could run code; "
            "download it again, or export only its weights (in audiocraft: export_lm and "
            "export_encodec)."
        ) from error
    except Exception as error:  # torch's reader raises what a damaged file makes it stumble over
        raise ValueError(
            f"Could not read {path}: not a complete PyTorch file; download it again."
        ) from error
    if not isinstance(package, dict):
        raise ValueError(f"Got a {type(package).__name__} in {path}; expected a dict of weights.")
    return package


def check_weights(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    source: str | Path,
    settings: str = "config.json",
) -> None:
    """Raises ValueError if weights are missing, unexpected or of the wrong shape.

    Args:
        settings: the source of the shapes, for the message.
    """
    misshapen = [
        f"{name} ({list(found[name].shape)} instead of {list(expected[name].shape)})"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != expected[name].shape
    ]
    _refuse(found.keys() ^ expected.keys(), misshapen, source=source, settings=settings)


def fits_float16(weights: Mapping[str, Tensor]) -> bool:
    """Whether float16 can represent all weights exactly."""
    return all(torch.equal(weight, weight.half().to(weight.dtype)) for weight in weights.values())


def load_transformers(cls: Any, source: str | Path, *, kind: str) -> Any:
    """Loads a model class of transformers from a folder or hub id, in float32.

    Args:
        kind: the `model_type` that its config must state.
    """
    with hub_access(source), no_progress_bars():
        found = cls.config_class.get_config_dict(source)[0].get("model_type")
        if found != kind:
            raise ValueError(f"Got {source}, a model of type {found}; expected type {kind}.")
        try:
            model, info = cls.from_pretrained(
                source,
                dtype=torch.float32,  # transformers 5 defaults to the file's dtype
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below with all others
            )
        except SafetensorError as error:
            raise _not_whole(source) from error
    # transformers 5 adds the two shapes to each name
    misshapen = [x if isinstance(x, str) else x[0] for x in info["mismatched_keys"]]
    wrong = {*info["missing_keys"], *info["unexpected_keys"]} - set(misshapen)
    _refuse(wrong, misshapen, source=source, settings="config.json")
    return model


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers shows a bar for each model that it reads."""
    from transformers import utils

    logging: Any = utils.logging  # untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse(
    names: Collection[str], misshapen: Collection[str], *, source: str | Path, settings: str
) -> None:
    problems = []
    if names:
        problems.append(f"missing or unexpected weights: {_listed(names)}")
    if misshapen:
        problems.append(f"weight shapes that do not match {settings}: {_listed(misshapen)}")
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}.")


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:_MOST_NAMES]
    rest = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {rest} more"] if rest else [])])


def _not_whole(source: str | Path) -> ValueError:
    return ValueError(f"{source} is not a complete safetensors file; download it again.")
