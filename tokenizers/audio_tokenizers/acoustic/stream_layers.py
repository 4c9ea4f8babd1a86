"""Runs the layers of a convolutional codec piece by piece, with the result of a single call.

Each layer keeps only the end of its input that it still needs. It pads the start like its module,
returns every output that its input so far determines, and on the last piece pads the end and
returns the rest. So the lookahead of a codec is exactly what its layers need (none if it is
causal), and memory does not grow with time.

Results are bit-identical on the CPU with one thread. For short waveforms ATen would choose other
kernels, which differ in the last bit; `_as_if_long`, the pending step of `LstmStream` and
`ROW_BLOCK` keep short pieces on the kernels of long ones. These still differ, by about 1e-6:

- an offline call in which some convolution has at most 20,480 inputs (for EnCodec 24 kHz, one of
  less than 161 frames);
- the last frames of an offline call whose number of frames is not a multiple of 4, since the matrix
  products of its one-step convolutions end on other kernels;
- any call with several threads, and any call of a model with fewer channels than the public ones:
  oneDNN's choices then depend on lengths.

A causal codec with reflection padding waits for the samples to reflect: EnCodec 24 kHz returns
nothing for the first 6 frames, and then each frame immediately.
Each push reads all weights, so pieces of a tenth of a second or more are several times cheaper than
single frames.

Shapes: B batch, C channels, N samples or other time steps, K codebooks, T frames, D width.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Up to this many elements, ATen uses its own convolution for batch 1 instead of oneDNN's.
_SHORT_INPUT = 20_480
# Matrix products use other kernels for few rows, and for the last rows.
ROW_BLOCK = 64


class StreamLayer(Protocol):
    """A layer with the state of one stream."""

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        """Takes the next x [B, C, N >= 0], which may be the last; returns final outputs."""


class ChainStream:
    """Layers one after the other."""

    def __init__(self, layers: Iterable[StreamLayer]) -> None:
        self._layers = list(layers)

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        for layer in self._layers:
            x = layer.step(x, last=last)
        return x


class PointwiseStream:
    """An activation function, which needs no state."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        # Contiguous, since strided short rows skip vector instructions, which changes results.
        return self._function(x.contiguous())


class ConvStream:
    """A convolution that pads its input.

    Args:
        padding: steps to add before the start and after the end.
        mode: "constant" (zeros), "reflect" or "replicate".
        whole_strides: pad the end further, to a multiple of the stride.
    """

    def __init__(
        self, conv: nn.Conv1d, *, padding: tuple[int, int], mode: str, whole_strides: bool
    ) -> None:
        self._conv = conv
        self._left, self._right = padding
        self._mode = mode
        self._whole_strides = whole_strides
        self._stride = conv.stride[0]
        self._reach = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1
        most = self._right + (self._stride - 1 if whole_strides else 0)
        # Input steps that the padding reads, at the start and at the end.
        seen_from_start = {"constant": 0, "reflect": self._left + 1, "replicate": 1}
        seen_from_end = {"constant": 0, "reflect": most + 1, "replicate": 1}
        self._keep = seen_from_end[mode]
        self._need = max(seen_from_start[mode], self._keep)
        self._input: Tensor | None = None  # [B, C, N], padded at the start once begun
        self._begun = False
        self._next = 0  # input position where the next output's kernel starts
        self._length = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        self._length += x.shape[2]
        x = x if self._input is None else torch.cat([self._input, x], dim=2)
        if self._length == 0 or (x.shape[2] < self._need and not (self._begun or last)):
            self._input = x
            return x.new_zeros(x.shape[0], self._conv.out_channels, 0)
        left = 0 if self._begun else self._left
        extra = -self._length % self._stride if self._whole_strides else 0
        x = pad(x, (left, self._right + extra if last else 0), mode=self._mode)
        self._begun = True

        num_outputs = max(0, (x.shape[2] - self._next - self._reach) // self._stride + 1)
        end = self._next + (num_outputs - 1) * self._stride + self._reach
        window = x[..., self._next : end] if num_outputs else x[..., :0]
        self._next += num_outputs * self._stride
        done = max(0, min(self._next, x.shape[2] - self._keep))
        self._input = x[..., done:].clone()
        self._next -= done
        return self._convolve(window, num_outputs)

    def _convolve(self, x: Tensor, num_outputs: int) -> Tensor:
        conv = self._conv
        if num_outputs == 0:
            return x.new_zeros(x.shape[0], conv.out_channels, 0)
        y = _as_if_long(
            x,
            lambda x: F.conv1d(
                x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups
            ),
            kernel_size=conv.kernel_size[0],
        )
        return y[..., :num_outputs]


class TransposedConvStream:
    """A transposed convolution whose output is trimmed.

    Each output is computed at once from all inputs that affect it, not accumulated from parts.

    Args:
        trim: steps to remove at the start and at the end.
    """

    def __init__(self, conv: nn.ConvTranspose1d, *, trim: tuple[int, int]) -> None:
        self._conv = conv
        self._kernel, self._stride = conv.kernel_size[0], conv.stride[0]
        assert trim[1] <= self._kernel - self._stride
        self._given, self._trim_right = trim  # counted before trimming
        self._keep = (self._kernel - 1) // self._stride
        self._input: Tensor | None = None  # [B, C, N], the last inputs that reach further outputs
        self._length = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        self._length += x.shape[2]
        x = x if self._input is None else torch.cat([self._input, x], dim=2)
        self._input = x[..., max(0, x.shape[2] - self._keep) :].clone()
        end = self._length * self._stride
        if last:
            end += self._kernel - self._stride - self._trim_right
        if self._length == 0 or end <= self._given:
            return x.new_zeros(x.shape[0], self._conv.out_channels, 0)
        conv, offset = self._conv, (self._length - x.shape[2]) * self._stride
        y = _as_if_long(
            x,
            lambda x: F.conv_transpose1d(
                x, conv.weight, conv.bias, conv.stride, 0, 0, conv.groups, conv.dilation
            ),
            kernel_size=self._kernel,
        )
        y = y[..., self._given - offset : end - offset]
        self._given = end
        return y


class LstmStream:
    """An LSTM with a skip connection.

    A call with a single step would use other kernels. So a single step is computed with a step of
    zeros after it and stays pending: it is computed again with the next step to get its state.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        self._lstm = lstm
        self._state: tuple[Tensor, Tensor] | None = None
        self._pending: Tensor | None = None  # [1, B, C]

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        N = x.shape[2]
        if N == 0:
            return x
        steps = x.permute(2, 0, 1)  # [N, B, C]
        if self._pending is not None:
            steps = torch.cat([self._pending, steps])
        if len(steps) == 1:
            y = self._lstm(torch.cat([steps, torch.zeros_like(steps)]), self._state)[0][:1]
            self._pending = steps.clone()
        else:
            y, self._state = self._lstm(steps, self._state)
            self._pending = None
        return y[-N:].permute(1, 2, 0) + x


class SumStream:
    """The sum of the results of layers; those that are ahead wait for the others.

    Args:
        dim: of time.
    """

    def __init__(self, layers: Sequence[StreamLayer], *, dim: int = 2) -> None:
        self._layers, self._dim = layers, dim
        self._waiting: list[Tensor] | None = None

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        results, dim = [layer.step(x, last=last) for layer in self._layers], self._dim
        if self._waiting is not None:
            pairs = zip(self._waiting, results, strict=True)
            results = [torch.cat(pair, dim=dim) for pair in pairs]
        ready = min(result.shape[dim] for result in results)
        self._waiting = [
            result.narrow(dim, ready, result.shape[dim] - ready).clone() for result in results
        ]
        total, *others = (result.narrow(dim, 0, ready) for result in results)
        for other in others:
            total = total + other
        return total


def seanet_stream(modules: Iterable[nn.Module]) -> ChainStream:
    """Streams the layers of a SEANet encoder or decoder, as in EnCodec and Mimi."""
    return ChainStream(_seanet_layer(module) for module in modules)


def _seanet_layer(module: Any) -> StreamLayer:
    if hasattr(module, "lstm"):
        return LstmStream(module.lstm)
    if hasattr(module, "block"):
        return SumStream([seanet_stream(module.block), _seanet_layer(module.shortcut)])
    if isinstance(getattr(module, "conv", None), nn.Conv1d):
        return padded_conv_stream(module)
    if isinstance(getattr(module, "conv", None), nn.ConvTranspose1d):
        return trimmed_conv_stream(module)
    assert isinstance(module, nn.ELU | nn.Identity), module
    return PointwiseStream(module)


def padded_conv_stream(module: Any) -> ConvStream:
    """Streams a convolution of EnCodec or Mimi, causal or not."""
    conv = module.conv
    total = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]
    right = 0 if module.causal else total // 2
    return ConvStream(
        conv, padding=(total - right, right), mode=module.pad_mode, whole_strides=True
    )


def trimmed_conv_stream(module: Any) -> TransposedConvStream:
    """Streams a transposed convolution of EnCodec or Mimi, causal or not."""
    total = module.conv.kernel_size[0] - module.conv.stride[0]
    right = -int(-total * module.trim_right_ratio // 1) if module.causal else total // 2
    return TransposedConvStream(module.conv, trim=(total - right, right))


def pad(x: Tensor, padding: tuple[int, int], *, mode: str) -> Tensor:
    """Pads x [B, C, N]; zero-pads an x too short for reflection first, and cuts it afterwards."""
    if mode != "reflect":
        return F.pad(x, padding, mode)
    missing = max(0, max(padding) + 1 - x.shape[2])
    padded = F.pad(F.pad(x, (0, missing)), padding, mode)
    return padded[..., : padded.shape[2] - missing]


def _as_if_long(x: Tensor, convolve: Callable[[Tensor], Tensor], *, kernel_size: int) -> Tensor:
    """Convolves a short x [B, C, N] with the kernels that a long one would use.

    A batch of two uses oneDNN at any length. One-step convolutions are matrix products, computed in
    blocks; the last block differs unless it is full.
    """
    B, C, N = x.shape
    if x.device.type != "cpu":
        return convolve(x)
    if kernel_size == 1:
        x = F.pad(x, (0, -N % ROW_BLOCK))
    if B == 1 and C * N <= _SHORT_INPUT:
        return convolve(x.expand(2, -1, -1))[:1]
    return convolve(x)
