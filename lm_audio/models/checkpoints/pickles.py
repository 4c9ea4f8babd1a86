"""Reads the pickles that `torch.save` writes, without running code.

Tensors and plain containers are read, and, by name, NumPy scalars and the settings of OmegaConf, as
training leaves them in checkpoints; these are read into stand-ins that do nothing. All else is
refused.
"""

import pickle
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

_ZIP_MAGIC = b"PK\x03\x04"
_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # torch before 1.6


class Node:
    """Stands for an object of OmegaConf: a mapping, a list, a value, or what describes them."""


class _Type:
    """Stands for a type that settings are annotated with."""


_OMEGACONF = (
    "dictconfig.DictConfig", "listconfig.ListConfig", "base.Metadata", "base.ContainerMetadata",
    "nodes.AnyNode", "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode",
    "nodes.BooleanNode",
)  # fmt: skip
_SCALAR = np.float64(0).__reduce__()[0]  # what makes NumPy's scalars; no public name leads to it
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 and 2 name it
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    *[(Node, f"omegaconf.{name}") for name in _OMEGACONF],
    (_Type, "typing.Any"),
    *[(kind, f"builtins.{kind.__name__}") for kind in (dict, list, str, int, float, bool)],
    *[(kind, f"__builtin__.{kind.__name__}") for kind in (dict, list, str, int, float, bool)],
    defaultdict,
]


def is_torch_file(path: Path) -> bool:
    """Whether a file begins as those that `torch.save` writes; it may be damaged further on."""
    with path.open("rb") as file:
        head = file.read(len(_OLD_MAGIC))
    if not head.startswith(_ZIP_MAGIC):
        return head == _OLD_MAGIC
    if not zipfile.is_zipfile(path):  # its end is missing
        return True
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a dict; its tensors stay on disk until they are used."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            package = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"Refused to read {path}: it is damaged, or holds more than tensors and plain values, "
            "which could run code; fetch it again, or export its weights alone with audiocraft's "
            "export_lm or export_encodec."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"Could not read {path}: it is no complete PyTorch file, fetch it again."
        ) from error
    if not isinstance(package, dict):
        raise ValueError(f"Got a {type(package).__name__} in {path}; expected a dict of weights.")
    return package


def plain(node: Any) -> Any:
    """The dicts, lists and values that a stand-in holds; references stay text, `${like.this}`."""
    if not isinstance(node, Node):
        return node
    fields = vars(node)
    content = fields.get("_content", fields.get("_val"))
    if isinstance(content, dict):
        return {plain(key): plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return content
