"""What the libraries in this process can do for it, where they can: free memory and threads.

GNU OpenMP keeps a team of threads for every thread that has ever used torch. Once all teams
outnumber the processors, none of them waits for its next work at the processor any more: the system
has to wake it, thousands of times for a second of sound, which then takes three times as long. So
loading and generating release their team; a new one takes a fraction of a millisecond.
"""

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch  # noqa: F401 - its OpenMP is one of them

Given = ParamSpec("Given")
Made = TypeVar("Made")


def trim_malloc() -> None:
    """Returns freed memory to the system, which the C library would keep for later."""
    _function("malloc_trim")(0)  # of glibc


def release_omp_threads() -> None:
    """Ends the threads that OpenMP keeps for the calling one; the next work gets new ones."""
    omp_pause_soft = 1  # all settings stay
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
    """Decorates a generator: no thread that takes a piece keeps OpenMP threads afterwards."""

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
