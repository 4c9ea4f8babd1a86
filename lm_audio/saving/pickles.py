"""Reads the pickles that `torch.save` writes, without running code.

Tensors and plain containers are read, and, by name, NumPy scalars and the settings of OmegaConf, as
training leaves them in checkpoints; these are read into stand-ins that do nothing. All else is
refused.
"""

import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from audio_tokenizers import weights

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
    return weights.read_pickle(path, allowed=_ALLOWED)


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
