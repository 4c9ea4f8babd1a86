"""Reads pickles written by `torch.save` without running code.

Supports tensors, plain containers and, for training checkpoints, NumPy scalars and, as inert
placeholders, OmegaConf settings and the names of Lightning's callbacks. Everything else raises an
error.
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
    """Placeholder for an OmegaConf object: a mapping, a list, a value, or their metadata."""


class _Type:
    """Placeholder for a type in OmegaConf metadata, or a callback whose state Lightning saved."""


_OMEGACONF = (
    "dictconfig.DictConfig", "listconfig.ListConfig", "base.Metadata", "base.ContainerMetadata",
    "nodes.AnyNode", "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode",
    "nodes.BooleanNode",
)  # fmt: skip
_SCALAR = np.float64(0).__reduce__()[0]  # the constructor of NumPy scalars, which is private
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its names in NumPy 1 and 2
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    *[(Node, f"omegaconf.{name}") for name in _OMEGACONF],
    (_Type, "typing.Any"),
    (_Type, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    *[(kind, f"builtins.{kind.__name__}") for kind in (dict, list, str, int, float, bool)],
    *[(kind, f"__builtin__.{kind.__name__}") for kind in (dict, list, str, int, float, bool)],
    defaultdict,
]


def is_torch_file(path: Path) -> bool:
    """Whether a file starts like one from `torch.save`; the rest may be damaged."""
    with path.open("rb") as file:
        head = file.read(len(_OLD_MAGIC))
    if not head.startswith(_ZIP_MAGIC):
        return head == _OLD_MAGIC
    if not zipfile.is_zipfile(path):  # truncated
        return True
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a dict; its tensors are memory-mapped."""
    return weights.read_pickle(path, allowed=_ALLOWED)


def plain(node: Any) -> Any:
    """The dicts, lists and values in a placeholder; references remain text, `${like.this}`."""
    if not isinstance(node, Node):
        return node
    fields = vars(node)
    content = fields.get("_content", fields.get("_val"))
    if isinstance(content, dict):
        return {plain(key): plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return content
