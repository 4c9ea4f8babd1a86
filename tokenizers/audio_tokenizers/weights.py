"""Weights from files: read without running code, and exactly those that a model expects."""

import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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


def read_pickle(path: str | Path, *, allowed: Sequence[Any] = ()) -> dict[str, Any]:
    """Reads a dict of torch's pickle format; tensors stay on disk until they are used.

    Args:
        allowed: what it may hold besides tensors and plain values, as `safe_globals` takes it.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        with Path(path).open("rb") as file:
            if not is_zip and file.read(1) != b"\x80":
                raise EOFError("It is no whole zip file, and begins as no pickle does.")
        with torch.serialization.safe_globals(list(allowed)):
            package = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Refused to read {path}: it holds more than tensors and plain values, which could run "
            "code, or is damaged; fetch it again, or export its weights alone (audiocraft does so "
            "by export_lm and export_encodec)."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Could not read {path}: it is no complete PyTorch file, fetch it again."
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
    """Raises ValueError that names weights which are missing, unexpected or of another shape.

    Args:
        settings: what gives the shapes.
    """
    misshapen = [
        f"{name} ({list(found[name].shape)} instead of {list(expected[name].shape)})"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != expected[name].shape
    ]
    _refuse(found.keys() ^ expected.keys(), misshapen, source=source, settings=settings)


def fits_float16(weights: Mapping[str, Tensor]) -> bool:
    """Whether float16 holds all of these exactly, as when they were read from a file of it."""
    return all(torch.equal(weight, weight.half().to(weight.dtype)) for weight in weights.values())


def load_transformers(cls: Any, source: str | Path, *, kind: str) -> Any:
    """Loads a model class of transformers from a folder or hub id, in float32.

    Args:
        kind: the `model_type` that its config must state.
    """
    with hub_access(source):
        found = cls.config_class.get_config_dict(source)[0].get("model_type")
        if found != kind:
            raise ValueError(f"Got {source}, a model of type {found}; expected type {kind}.")
        try:
            model, info = cls.from_pretrained(
                source,
                dtype=torch.float32,  # transformers 5 keeps that of the file by default
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below, with all others
            )
        except SafetensorError as error:
            raise _not_whole(source) from error
    # transformers 5 adds the two shapes to each name
    misshapen = [x if isinstance(x, str) else x[0] for x in info["mismatched_keys"]]
    wrong = {*info["missing_keys"], *info["unexpected_keys"]} - set(misshapen)
    _refuse(wrong, misshapen, source=source, settings="config.json")
    return model


def _refuse(
    names: Collection[str], misshapen: Collection[str], *, source: str | Path, settings: str
) -> None:
    problems = []
    if names:
        problems.append(f"missing or unexpected weights: {', '.join(sorted(names))}")
    if misshapen:
        shown = ", ".join(sorted(misshapen))
        problems.append(f"weights of a shape that {settings} does not give: {shown}")
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}.")


def _not_whole(source: str | Path) -> ValueError:
    return ValueError(f"The weights in {source} are no whole safetensors file; fetch them again.")
