"""Decode steps as CUDA graphs, because launching a step's kernels costs more than its arithmetic.

A graph works on fixed tensors, so there is one for each number of rows, bucket of lengths and cache
storage. The last tokens are copied in; the logits are read in place.

Shapes: R rows, J streams, D width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lm_audio.networks.kv_cache import KVCache
from lm_audio.networks.token_lm import TokenLM

SHORTEST = 256  # positions; bucket sizes are this one times powers of two
MOST_GRAPHS = 16
WARM_UPS = 2  # steps before capture, because libraries allocate memory on their first call


class Capture(Protocol):
    """Captures a function on fixed tensors; returns its result and a function that replays it."""

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Any]]: ...


class GraphedSteps:
    """`TokenLM.step` over one cache, captured once per shape."""

    def __init__(self, model: TokenLM, cache: KVCache, capture: Capture | None = None) -> None:
        self._model = model
        self._cache = cache
        self._capture = capture or CudaCapture()
        self._steps: dict[tuple[object, ...], _Step] = {}
        self._storage: tuple[int, ...] = ()

    def __call__(
        self, tokens: Tensor, *, sums: Tensor | None, rows: slice, positions: Tensor, length: int
    ) -> Tensor:
        """Logits [R, J, V], valid until the next call."""
        if self._cache.storage != self._storage:
            self._steps.clear()
            self._storage = self._cache.storage
        key = (rows.start, rows.stop, bucket(length), None if sums is None else sums.dtype)
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= MOST_GRAPHS:
                self._steps.clear()
            step = self._steps[key] = self._new_step(tokens, sums, rows, positions, bucket(length))
        step.tokens.copy_(tokens)
        step.positions.copy_(positions)
        if step.sums is not None and sums is not None:
            step.sums.copy_(sums)
        step.replay()
        return step.logits

    def _new_step(
        self, tokens: Tensor, sums: Tensor | None, rows: slice, positions: Tensor, length: int
    ) -> "_Step":
        tokens, positions = tokens.clone(), positions.clone()
        sums = None if sums is None else sums.clone()

        def run() -> Tensor:
            return self._model.step(
                tokens,
                sums=sums,
                rows=rows,
                positions=positions,
                length=length,
                cache=self._cache,
            )

        logits, replay = self._capture(run)
        return _Step(tokens, positions, sums, logits, replay)


@dataclass(frozen=True, eq=False)
class _Step:
    """The tensors of a graph."""

    tokens: Tensor  # [R, J]
    positions: Tensor  # [R]
    sums: Tensor | None  # [R, D]
    logits: Tensor  # [R, J, V]
    replay: Callable[[], Any]


class CudaCapture:
    """Captures CUDA graphs in one memory pool, since they run one after the other."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], Any]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits = function()
        self._pool = self._pool or graph.pool()
        return logits, graph.replay


def bucket(length: int) -> int:
    """The size of the smallest bucket that fits a length."""
    size = SHORTEST
    while size < length:
        size *= 2
    return size
