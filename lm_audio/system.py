"""Frees memory and threads through the libraries of this process, where they support it.

GNU OpenMP keeps a team of threads for every thread that has ever used torch. Once the teams
outnumber the processors, their threads stop spinning between tasks and must be woken by the system,
thousands of times per second of audio, which makes generation three times slower. So loading and
generating release their team; a new one starts in a fraction of a millisecond.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch  # noqa: F401 - loads its OpenMP

Given = ParamSpec("Given")
Made = TypeVar("Made")


def trim_malloc() -> None:
    """Returns freed memory to the system, which the C library would otherwise keep."""
    _function("malloc_trim")(0)  # of glibc


def release_omp_threads() -> None:
    """Ends the OpenMP team of the calling thread; its next parallel region starts a new one."""
    omp_pause_soft = 1  # keeps all settings
    _function("omp_pause_resource_all")(omp_pause_soft)


def releases_omp_threads(work: Callable[Given, Made]) -> Callable[Given, Made]:
    """Decorates a function: the calling thread keeps no OpenMP threads afterwards."""

    @functools.wraps(work)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        try:
            return work(*args, **kwargs)
        finally:
            release_omp_threads()

    return wrapped


def releases_omp_threads_between(
    work: Callable[Given, Iterator[Made]],
) -> Callable[Given, Iterator[Made]]:
    """Decorates a generator: a consuming thread keeps no OpenMP threads between items."""

    @functools.wraps(work)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Iterator[Made]:
        pieces = work(*args, **kwargs)
        while True:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            finally:
                release_omp_threads()
            yield piece

    return wrapped


@functools.cache
def _function(name: str) -> Callable[..., Any]:
    symbols = ctypes.CDLL(None) if os.name == "posix" else None
    return getattr(symbols, name, lambda *_: None)
