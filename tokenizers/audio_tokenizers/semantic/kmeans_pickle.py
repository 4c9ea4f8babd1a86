"""Reads the centroids of a scikit-learn k-means that joblib pickled, without running code.

fairseq publishes its HuBERT k-means in this format (`hubert_base_ls960_L9_km500.bin`), and a pickle
can run any code. Here every class and function in the file is replaced by one that only stores its
arguments, names outside a short list are rejected, and neither joblib nor scikit-learn is used.

joblib writes an array as a small pickled object (shape, order, dtype) followed, inside the pickle,
by the array's raw bytes. Newer versions align the bytes, which the object records. The file may be
compressed with zlib or gzip.
"""

import io
import math
import pickle
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

MAX_BYTES = 2**31
_ESTIMATORS = {"KMeans", "MiniBatchKMeans"}
_KNOWN = {
    ("copy_reg", "_reconstructor"),
    ("copyreg", "_reconstructor"),
    ("__builtin__", "object"),
    ("builtins", "object"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.random", "__RandomState_ctor"),
    ("numpy.random._mt19937", "MT19937"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    *(
        (module, name)
        for module in ("sklearn.cluster._kmeans", "sklearn.cluster.k_means_")
        for name in _ESTIMATORS
    ),
    ("joblib.numpy_pickle", "NumpyArrayWrapper"),
    ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"),
}


def read_kmeans_pickle(path: str | Path) -> Tensor:
    """The centroids of a joblib-pickled KMeans or MiniBatchKMeans: [V, D], float32."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist; check the path.")
    data = _decompress(path)
    try:
        fitted = _Reader(io.BytesIO(data)).load()
    except _RefusedError as error:
        raise ValueError(f"{path}: {error}; expected only a k-means of scikit-learn.") from error
    except (
        pickle.UnpicklingError, struct.error, ArithmeticError, AssertionError, AttributeError,
        EOFError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ValueError(
            f"{path} is damaged or not a joblib-pickled k-means ({error}); download it again, or "
            "convert it."
        ) from error
    if not (isinstance(fitted, _Remembered) and fitted.name in _ESTIMATORS):
        raise ValueError(f"{path} has no k-means; expected a KMeans or MiniBatchKMeans.")
    centers = fitted.state.get("cluster_centers_") if isinstance(fitted.state, dict) else None
    if not isinstance(centers, np.ndarray) or centers.ndim != 2 or centers.dtype.kind != "f":
        raise ValueError(f"{path} has a k-means without centroids; expected a fitted one.")
    if centers.size == 0 or not np.isfinite(centers).all():
        raise ValueError(f"{path} has empty, NaN or infinite centroids; fit the k-means again.")
    return torch.from_numpy(centers.astype(np.float32, order="C"))


class _RefusedError(Exception):
    """The pickle uses something that a k-means does not need."""


class _Remembered:
    """An inert replacement for an object, or for the result of a function."""

    name: ClassVar[str]
    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args


class _Reader(pickle._Unpickler):
    """The Python unpickler, since the bytes of arrays lie between two of its steps."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _RefusedError(f"it uses {module}.{name}, which could run code")
        return type(name, (_Remembered,), {"name": name})

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"it uses the extension {code}, which could run code")

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Remembered):
            raise _RefusedError("it sets the state of a non-object")
        target.state = state
        if target.name == "NumpyArrayWrapper":
            self.stack[-1] = _read_array(self.file, target.state)

    dispatch[pickle.BUILD[0]] = load_build


def _read_array(file: io.BytesIO, wrapper: Any) -> np.ndarray[Any, Any]:
    """The array whose raw bytes follow in the file."""
    dtype, shape = _dtype(wrapper["dtype"]), wrapper["shape"]
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"an array has the shape {shape}")
    if wrapper.get("numpy_array_alignment_bytes") is not None:
        file.read(file.read(1)[0])
    data = file.read(min(math.prod(shape) * dtype.itemsize, MAX_BYTES))
    array: np.ndarray[Any, Any] = np.frombuffer(data, dtype)
    return array.reshape(shape, order="F" if wrapper["order"] == "F" else "C")


def _dtype(remembered: Any) -> np.dtype[Any]:
    """The numeric type that a pickled numpy dtype describes."""
    if not (isinstance(remembered, _Remembered) and remembered.name == "dtype"):
        raise ValueError("an array has no type")
    code = str(remembered.args[0])
    if not re.fullmatch(r"[fiub][1248]", code):
        raise _RefusedError(f"it has an array of type {code}, not of numbers")
    order = remembered.state[1] if isinstance(remembered.state, tuple) else "|"
    if order not in ("<", ">", "|", "="):
        raise ValueError(f"an array has the byte order {order}")
    return np.dtype(f"{order}{code}")


def _decompress(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:1] not in (b"x", b"\x1f"):
        return data
    stream = zlib.decompressobj(wbits=47)  # zlib or gzip, by the header
    try:
        plain = stream.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"{path} is damaged ({error}); download it again.") from error
    if not stream.eof:
        raise ValueError(
            f"{path} is truncated, or larger than {MAX_BYTES} bytes; download it again."
        )
    return plain
