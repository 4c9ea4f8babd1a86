"""Counter-based white noise: the same samples regardless of where a stream begins."""

import math

import torch
from torch import Tensor


def noise_samples(*, first: int, count: int, device: torch.device) -> Tensor:
    """Gaussian noise [count] of unit power that depends only on the samples' numbers."""
    counter = 2 * torch.arange(first, first + count, device=device)
    radius = (-2 * _uniform(counter).log()).sqrt()
    return radius * (2 * math.pi * _uniform(counter + 1)).cos()


def uniform_samples(*, first: int, count: int, device: torch.device) -> Tensor:
    """Uniform noise [count] between -1 and 1 that depends only on the samples' numbers."""
    return 2 * _uniform(torch.arange(first, first + count, device=device)) - 1


def _uniform(counter: Tensor) -> Tensor:
    """Integers to float32 in (0, 1), by the 32-bit finaliser of MurmurHash3 in int64."""
    x = counter & 0xFFFFFFFF
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    x = x ^ (x >> 16)
    return ((x >> 8).float() + 0.5) / 2**24
