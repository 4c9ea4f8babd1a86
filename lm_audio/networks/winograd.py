"""Convolutions that are faster on a CPU: as matrix products, or with fewer multiplications.

Few pixels are one product of their neighbourhoods and the kernel, which is read once. Many pixels
with many channels use Winograd's F(4x4, 3x3): an output tile of 4x4 pixels needs 36 multiplications
per pair of channels instead of 144, and the transforms around them are small matrix products. The
error is up to ten times that of a plain convolution (arXiv 1509.09308). Convolutions with five taps
in time use F(4, 5) likewise: 8 multiplications for 4 outputs instead of 20.

Shapes: B batch, C channels, H height, W width, T time steps, N tiles.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INPUT = (
    (4.0, 0.0, -5.0, 0.0, 1.0, 0.0),
    (0.0, -4.0, -4.0, 1.0, 1.0, 0.0),
    (0.0, 4.0, -4.0, -1.0, 1.0, 0.0),
    (0.0, -2.0, -1.0, 2.0, 1.0, 0.0),
    (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
    (0.0, 4.0, 0.0, -5.0, 0.0, 1.0),
)
_KERNEL = (
    (1 / 4, 0.0, 0.0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0.0, 0.0, 1.0),
)
_OUTPUT = (
    (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
    (0.0, 1.0, -1.0, 2.0, -2.0, 0.0),
    (0.0, 1.0, 1.0, 4.0, 4.0, 0.0),
    (0.0, 1.0, -1.0, 8.0, -8.0, 1.0),
)
_TILE = 4
# Up to this many pixels, a product is faster than torch's convolution.
_FEW_PIXELS = 128
# Fewer tiles than this do not repay reading the larger transformed kernel.
_LEAST_TILES = 48
# Fewer channels make the transforms cost more than they save.
_LEAST_CHANNELS = 256
# Tiles per pass, which bounds the memory of the transformed input.
_MOST_TILES = 1024
_TAPS = 5
# In time: channels and length that repay the transforms, and tiles per pass.
_LEAST_WIDTH = 128
_LEAST_LENGTH = 1024
_MOST_TILES_IN_TIME = 512
# Larger transformed kernels, in elements, are made again for each call, to save memory: that takes
# several times as long as the rest, unless there are many tiles.
_MOST_KEPT = 6_500_000
_MANY_TILES = 256


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with stride 1 that keeps the size of its input."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, 3, padding=1)
        self._transformed: Tensor | None = None  # [36, C in, C out]

    def forward(self, x: Tensor) -> Tensor:
        B, _, H, W = x.shape
        kept = 36 * self.in_channels * self.out_channels <= _MOST_KEPT
        least = _LEAST_TILES if kept else _MANY_TILES
        tiles = B * -(-H // _TILE) * -(-W // _TILE)
        wide = min(self.in_channels, self.out_channels) >= _LEAST_CHANNELS
        if x.device.type != "cpu" or torch.is_grad_enabled() or not wide:
            return super().forward(x)
        if B * H * W <= _FEW_PIXELS:
            return multiply(x, self.weight, self.bias)
        if tiles < least or x.dtype != torch.float32:
            return super().forward(x)
        kernel = self._transformed
        if kernel is None:
            kernel = transform_kernel(self.weight)
            self._transformed = kernel if kept else None
        return convolve(x, kernel, self.bias)

    def train(self, mode: bool = True) -> "Conv3x3":
        self._transformed = None
        return super().train(mode)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves x [B, C, H, W] with a kernel [C out, C in, 3, 3] in one product, channels-last.

    A channels-last kernel is read as it is.
    """
    B, C, H, W = x.shape
    pixels = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # [B, H + 2, W + 2, C]
    around = pixels.unfold(1, 3, 1).unfold(2, 3, 1)  # [B, H, W, C, 3, 3]
    flat = around.permute(0, 1, 2, 4, 5, 3).reshape(B, H, W, 9 * C)
    kernel = weight.permute(0, 2, 3, 1).reshape(-1, 9 * C)
    return F.linear(flat, kernel, bias).permute(0, 3, 1, 2)


def transform_kernel(weight: Tensor) -> Tensor:
    """A kernel [C out, C in, 3, 3] for `convolve`: [36, C in, C out]."""
    kernel = torch.tensor(_KERNEL, dtype=torch.float64)
    out, source = weight.shape[:2]
    both = torch.kron(kernel, kernel)  # [36, 9]
    made = both @ weight.detach().double().permute(2, 3, 1, 0).reshape(9, source * out)
    return made.float().view(36, source, out)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves x [B, C, H, W] with a transformed kernel [36, C in, C out], channels-last."""
    B, C, H, W = x.shape
    rows, columns = -(-H // _TILE), -(-W // _TILE)
    pixels = x.permute(0, 2, 3, 1)  # [B, H, W, C]
    pixels = F.pad(pixels, (0, 0, 1, _TILE * columns - W + 1, 1, _TILE * rows - H + 1))
    tiles = pixels.unfold(1, 6, _TILE).unfold(2, 6, _TILE)  # [B, rows, columns, C, 6, 6]
    out = x.new_empty(B, rows * _TILE, columns * _TILE, kernel.shape[2])
    to_input = _both(_INPUT).to(x)
    to_output = _both(_OUTPUT).to(x)
    step = max(1, _MOST_TILES // columns)  # rows of tiles
    for b in range(B):
        for first in range(0, rows, step):
            some = tiles[b, first : first + step]  # [rows, columns, C, 6, 6]
            N = some.shape[0] * columns
            flat = some.permute(3, 4, 0, 1, 2).reshape(36, N * C)
            made = (to_input @ flat).view(36, N, C)
            made = torch.bmm(made, kernel).view(36, -1)
            y = (to_output @ made).view(_TILE, _TILE, some.shape[0], columns, -1)
            place = out[b, first * _TILE : (first + step) * _TILE]
            place.view(-1, _TILE, columns, _TILE, place.shape[-1]).copy_(y.permute(2, 0, 3, 1, 4))
    y = out[:, :H, :W]
    if bias is not None:
        y = y + bias
    return y.permute(0, 3, 1, 2)


def _both(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """The transform of both axes at once."""
    one = torch.tensor(matrix)
    return torch.kron(one, one)


class Conv5(nn.Conv1d):
    """A convolution in time with five taps and stride 1 that keeps the length of its input."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, _TAPS, padding=_TAPS // 2)

    def forward(self, x: Tensor) -> Tensor:
        wide = min(self.in_channels, self.out_channels) >= _LEAST_WIDTH
        plain = x.device.type != "cpu" or x.dtype != torch.float32 or torch.is_grad_enabled()
        if plain or not wide or x.shape[2] < _LEAST_LENGTH:
            return super().forward(x)
        return convolve_in_time(x, self.weight, self.bias)


def convolve_in_time(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolves x [B, C, T] with a kernel [C out, C, 5]."""
    to_input, to_kernel, to_output = (matrix.to(x) for matrix in _in_time())
    C_out, C, _ = weight.shape
    # Transformed again in each call: that is quick, and memory for all layers would be large.
    kernel = (to_kernel @ weight.permute(2, 0, 1).reshape(_TAPS, -1)).view(-1, C_out, C)
    B, _, T = x.shape
    N, size = -(-T // _TILE), _TILE + _TAPS - 1
    tiles = F.pad(x, (_TAPS // 2, N * _TILE - T + _TAPS // 2)).unfold(2, size, _TILE)
    out = x.new_empty(B, C_out, N, _TILE)
    for b in range(B):
        for first in range(0, N, _MOST_TILES_IN_TIME):
            some = tiles[b, :, first : first + _MOST_TILES_IN_TIME]  # [C, N, 8]
            flat = some.permute(2, 0, 1).reshape(size, -1)
            made = torch.bmm(kernel, (to_input @ flat).view(size, C, -1))  # [8, C out, N]
            y = (to_output @ made.view(size, -1)).view(_TILE, C_out, -1)
            out[b, :, first : first + _MOST_TILES_IN_TIME] = y.permute(1, 2, 0)
    y = out.view(B, C_out, N * _TILE)[..., :T]
    return y if bias is None else y.add_(bias[:, None])


@cache
def _in_time() -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of input, kernel and output: Toom and Cook's at these points and infinity."""
    points = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5])

    def powers(count: int) -> np.ndarray:
        infinity = np.eye(1, count, count - 1)
        return np.concatenate([points[:, None] ** np.arange(count), infinity])

    to_input = np.linalg.inv(powers(len(points) + 1)).T
    matrices = to_input, powers(_TAPS), powers(_TILE).T
    return tuple(torch.from_numpy(matrix.copy()) for matrix in matrices)  # type: ignore[return-value]
