"""Hashes that identify weights and audio."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 over the names, types, shapes and values of tensors, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        _update(digest, tensor)
    return digest.hexdigest()


def hash_model(settings: str, weights: Mapping[str, Tensor]) -> str:
    """Sixteen digits that depend on a model's settings and weights: the end of an identity.

    Do not cache it for a model that may still train: some trainers write to `Tensor.data`, which
    version counters miss. It takes about a millisecond per million weights.
    """
    return hashlib.sha256((settings + hash_tensors(weights)).encode()).hexdigest()[:16]


def hash_tensor(tensor: Tensor) -> str:
    """A SHA-256 over the type, shape and values of one tensor."""
    digest = hashlib.sha256()
    _update(digest, tensor)
    return digest.hexdigest()


def _update(digest: "hashlib._Hash", tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(np.ascontiguousarray(flat.view(torch.uint8).numpy()).data)
