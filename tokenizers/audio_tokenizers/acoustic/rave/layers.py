"""Layers over rows: matrix products over windows of time steps, whole or in a stream.

Rows are time steps. On a CPU with one thread a row of a result does not depend, to the bit, on the
other rows of the call: products have at least `MIN_ROWS` rows (below, BLAS picks other kernels),
functions see whole vectors, and widths are multiples of 4, which keeps rows aligned. So a stream of
small pieces equals one call. The windows of a layer are concatenated into one matrix, which is
faster here than a convolution.

Shapes: B batch, R rows, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.rows import row_linear
from audio_tokenizers.acoustic.stream_layers import ChainStream, PointwiseStream, SumStream

MIN_ROWS = 8
VECTOR = 64  # elements; functions of the last few would be computed one by one
SLOPE = 0.2


class RowStream(Protocol):
    """A layer with the state of one stream."""

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Takes the next rows x [B, R >= 0, D], which may be the last; returns final rows."""


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """`row_linear` for layouts of any kind."""
    return row_linear(x.contiguous(), weight.contiguous(), min_rows=MIN_ROWS)


def pointwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), whose result for an element does not depend on the number of elements."""
    flat = x.reshape(-1)
    return function(F.pad(flat, (0, -len(flat) % VECTOR)))[: len(flat)].reshape(x.shape)


def windows(x: Tensor, *, kernel: int, dilation: int = 1) -> Tensor:
    """Rows [B, R + (kernel - 1) * dilation, D] -> windows [B, R, kernel * D]"""
    R = x.shape[1] - (kernel - 1) * dilation
    return torch.cat([x[:, i * dilation : i * dilation + R] for i in range(kernel)], dim=-1)


class WindowStream:
    """Applies a function of windows in a stream; pads the start and the end with zeros.

    Args:
        function: windows of all results at once [B, (R - 1) * stride + reach, D] -> [B, R, D'].
        stride: input rows per result.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        *,
        out_width: int,
        reach: int,
        left: int,
        right: int,
        stride: int = 1,
    ) -> None:
        self._function, self._out_width = function, out_width
        self._reach, self._stride = reach, stride
        self._left, self._right = left, right
        self._rows: Tensor | None = None

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        before = x.new_zeros(x.shape[0], self._left, x.shape[2])
        rows = torch.cat([before if self._rows is None else self._rows, x], dim=1)
        if last:
            rows = F.pad(rows, (0, 0, 0, self._right))
        R = max(0, (rows.shape[1] - self._reach) // self._stride + 1)
        self._rows = rows[:, R * self._stride :].clone()
        if R == 0:
            return x.new_zeros(x.shape[0], 0, self._out_width)
        return self._function(rows[:, : (R - 1) * self._stride + self._reach])


class Layer(nn.Module):
    """A layer whose whole call is a stream with one piece."""

    def stream(self) -> RowStream:
        raise NotImplementedError

    def delay(self, missing: Fraction) -> Fraction:
        """Rows of the result that are not final while this many rows of the input are missing."""
        return missing

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, R, D] -> [B, R * rate, D']"""
        return self.stream().step(x, last=True)


class Conv(Layer):
    """A convolution over rows without a bias."""

    def __init__(
        self, in_width: int, out_width: int, *, kernel: int, dilation: int = 1, causal: bool = False
    ) -> None:
        super().__init__()
        self.weight = _weight(out_width, kernel * in_width)
        self.kernel, self.dilation = kernel, dilation
        self.lookahead = 0 if causal else (kernel - 1) // 2 * dilation

    def delay(self, missing: Fraction) -> Fraction:
        return missing + self.lookahead

    def window(self, x: Tensor) -> Tensor:
        return row_product(windows(x, kernel=self.kernel, dilation=self.dilation), self.weight)

    def stream(self) -> WindowStream:
        past = (self.kernel - 1) * self.dilation
        return WindowStream(
            self.window,
            out_width=len(self.weight),
            reach=past + 1,
            left=past - self.lookahead,
            right=self.lookahead,
        )


class Downsample(Layer):
    """A convolution over 2 * ratio rows, one result every `ratio` rows."""

    def __init__(self, in_width: int, out_width: int, *, ratio: int, causal: bool) -> None:
        super().__init__()
        self.weight = _weight(out_width, 2 * ratio * in_width)
        self.ratio = ratio
        self.lookahead = 0 if causal else ratio // 2

    def delay(self, missing: Fraction) -> Fraction:
        return (missing + self.lookahead) / self.ratio

    def window(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(1, (-1, self.ratio)).flatten(2)  # [B, R + 1, ratio * D]
        return row_product(windows(blocks, kernel=2), self.weight)

    def stream(self) -> WindowStream:
        return WindowStream(
            self.window,
            out_width=len(self.weight),
            reach=2 * self.ratio,
            left=self.ratio - self.lookahead,
            right=self.lookahead,
            stride=self.ratio,
        )


class Upsample(Layer):
    """A transposed convolution: each row reaches 2 * ratio results, `ratio` of them its own."""

    def __init__(self, in_width: int, out_width: int, *, ratio: int, causal: bool) -> None:
        super().__init__()
        self.weight = _weight(ratio * out_width, 2 * in_width)
        self.ratio = ratio
        self.late = 0 if causal else ratio // 2  # results that wait for the next row

    def delay(self, missing: Fraction) -> Fraction:
        return missing * self.ratio + self.late

    def window(self, x: Tensor) -> Tensor:
        y = row_product(windows(x, kernel=2), self.weight)  # [B, R, ratio * D']
        return y.unflatten(2, (self.ratio, -1)).flatten(1, 2)

    def stream(self) -> "UpsampleStream":
        return UpsampleStream(self)


class UpsampleStream:
    def __init__(self, layer: Upsample) -> None:
        self._window = WindowStream(
            layer.window,
            out_width=len(layer.weight) // layer.ratio,
            reach=2,
            left=1,
            right=1 if layer.late else 0,
        )
        self._skip = layer.late
        self._extra = layer.ratio - layer.late if layer.late else 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        y = self._window.step(x, last=last)
        skipped = min(self._skip, y.shape[1])
        self._skip -= skipped
        end = y.shape[1] - (self._extra if last else 0)
        return y[:, skipped:end]


class Activation(Layer):
    """A leaky rectifier."""

    def stream(self) -> "Activation":
        return self

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        return F.leaky_relu(x, SLOPE)


class Chain(Layer):
    """Layers one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def stream(self) -> RowStream:
        return ChainStream([layer.stream() for layer in self._each()])

    def delay(self, missing: Fraction) -> Fraction:
        for layer in self._each():
            missing = layer.delay(missing)
        return missing

    def _each(self) -> Iterable[Layer]:
        return self.layers  # type: ignore[return-value]  # all are


class Residual(Layer):
    """A branch added to its input."""

    def __init__(self, branch: Chain) -> None:
        super().__init__()
        self.branch = branch
        last = branch.layers[-1]
        assert isinstance(last, Conv)
        with torch.no_grad():  # a chain of new units keeps the level of its input
            last.weight.mul_(0.3)

    def stream(self) -> SumStream:
        return SumStream([PointwiseStream(nn.Identity()), self.branch.stream()], dim=1)

    def delay(self, missing: Fraction) -> Fraction:
        return self.branch.delay(missing)


def _weight(out_width: int, in_width: int) -> nn.Parameter:
    """Weights that keep the level of what a leaky rectifier gives (He et al. 2015)."""
    bound = (6 / (1 + SLOPE**2) / in_width) ** 0.5
    return nn.Parameter(torch.empty(out_width, in_width).uniform_(-bound, bound))
