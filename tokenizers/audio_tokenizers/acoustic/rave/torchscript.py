"""Reads the tensors and attributes of a TorchScript archive without running anything in it.

An archive holds a pickle of its modules and a program in `code/`, which `torch.jit.load` would
compile and run. Here the program is not even opened. In the pickle, modules become plain records,
tensors are read from their files, and any other name is refused.
"""

import math
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

MAX_BYTES = 2**32
STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LISTS = ("build_intlist", "build_doublelist", "build_boollist", "build_tensorlist")
Values = dict[str, Any]


def read_torchscript(path: str | Path) -> tuple[dict[str, Tensor], Values]:
    """The tensors of an archive by dotted names, in its order, and its other attributes."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = _read_module(archive)
    except _RefusedError as error:
        raise ValueError(f"Refused to read {path}: {error}.") from None
    except (
        zipfile.BadZipFile, pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError,
        LookupError, MemoryError, NotImplementedError, OSError, RecursionError, RuntimeError,
        TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} is damaged or not a TorchScript archive ({error}); download it again."
        ) from error
    tensors: dict[str, Tensor] = {}
    values: Values = {}
    _flatten(root, "", tensors, values, set())
    return tensors, values


class _RefusedError(Exception):
    """The archive uses something that no module's weights need."""


class _Module:
    """An inert record in place of a scripted module."""

    def __init__(self) -> None:
        self.state: Any = None


class _Storage:
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


class _Reader(pickle._Unpickler):
    """The Python unpickler, so that setting a state can be limited to our records."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, data: bytes, read: Callable[[str], bytes]) -> None:
        super().__init__(BytesIO(data))
        self._read, self._storages = read, {}  # type: ignore[var-annotated]

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in STORAGES:
            return _Storage(STORAGES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle" and name in LISTS:
            return _same
        raise _RefusedError(f"it uses {module}.{name}, which could run code")

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"it uses the extension {code}, which could run code")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _Storage) or not isinstance(key, str):
            raise _RefusedError("it refers to something that is not a storage")
        if not key.isdigit():
            raise _RefusedError(f"it refers to a storage by the name {key!r}")
        if key not in self._storages:
            data = bytearray(self._read(f"data/{key}"))
            found: Tensor = torch.frombuffer(data, dtype=storage.dtype) if data else torch.zeros(0)
            self._storages[key] = found.to(storage.dtype)
        if len(self._storages[key]) < count:
            raise ValueError(f"storage {key} is truncated")
        return self._storages[key]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Module):
            raise _RefusedError("it sets the state of a non-module")
        self.stack[-1].state = state

    dispatch[pickle.BUILD[0]] = load_build


def _same(values: Any) -> Any:
    return values


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    size, stride = tuple(size), tuple(stride)
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    is_within = offset >= 0 and min(stride, default=0) >= 0 and reach <= len(storage)
    if math.prod(size) > len(storage) or (math.prod(size) and not is_within):
        raise ValueError("a tensor reaches beyond its storage")
    return torch.as_strided(storage, size, stride, offset).clone()


def _read_module(archive: zipfile.ZipFile) -> _Module:
    infos = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in infos.values()) > MAX_BYTES:
        raise _RefusedError(f"it unpacks to more than {MAX_BYTES} bytes")
    (pickled,) = (name for name in infos if name.count("/") == 1 and name.endswith("/data.pkl"))
    prefix = pickled.removesuffix("data.pkl")

    def read(name: str) -> bytes:
        return archive.read(infos[prefix + name])

    root = _Reader(archive.read(pickled), read).load()
    if not isinstance(root, _Module):
        raise ValueError("it holds no module")
    return root


def _flatten(
    module: _Module, prefix: str, tensors: dict[str, Tensor], values: Values, seen: set[int]
) -> None:
    if id(module) in seen or not isinstance(module.state, dict):
        return
    seen.add(id(module))
    for name, value in module.state.items():
        path = f"{prefix}{name}"
        if isinstance(value, _Module):
            _flatten(value, f"{path}.", tensors, values, seen)
        elif isinstance(value, Tensor):
            tensors[path] = value
        else:
            values[path] = value
