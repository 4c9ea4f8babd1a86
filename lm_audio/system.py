"""What the libraries in this process can do for it, where they can."""

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import torch  # noqa: F401 - its OpenMP is one of them


def give_back_memory() -> None:
    """Returns what was freed to the system, which the C library would keep for later."""
    _function("malloc_trim")(0)  # of glibc


def dismiss_team() -> None:
    """Ends the threads that OpenMP keeps for the calling one; the next work gets new ones."""
    omp_pause_soft = 1  # all settings stay
    _function("omp_pause_resource_all")(omp_pause_soft)


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    symbols = ctypes.CDLL(None) if os.name == "posix" else None
    return getattr(symbols, name, lambda *_: None)
