"""Hashes that tell one set of weights, or one piece of audio, from another."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def hash_weights(module: nn.Module) -> str:
    """A SHA-256 over the names, types, shapes and values of all parameters and saved buffers."""
    return hash_tensors(module.state_dict())


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 over the names, types, shapes and values of tensors, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        _update(digest, tensor)
    return digest.hexdigest()


class WeightsHash:
    """A SHA-256 over settings and weights that may go on changing, computed anew after a change."""

    def __init__(self) -> None:
        self._state: list[tuple[str, int, int]] = []
        self._digest = ""

    def __call__(self, tensors: Mapping[str, Tensor], settings: str) -> str:
        state = [(name, t.data_ptr(), t._version) for name, t in tensors.items()]
        if state != self._state:
            text = settings + hash_tensors(tensors)
            self._digest = hashlib.sha256(text.encode()).hexdigest()
            self._state = state
        return self._digest


def hash_tensor(tensor: Tensor) -> str:
    """A SHA-256 over the type, shape and values of one tensor."""
    digest = hashlib.sha256()
    _update(digest, tensor)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(np.ascontiguousarray(flat.view(torch.uint8).numpy()).data)
