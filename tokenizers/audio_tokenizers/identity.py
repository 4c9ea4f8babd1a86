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


def hash_tensor(tensor: Tensor) -> str:
    """A SHA-256 over the type, shape and values of one tensor."""
    digest = hashlib.sha256()
    _update(digest, tensor)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(np.ascontiguousarray(flat.view(torch.uint8).numpy()).data)
