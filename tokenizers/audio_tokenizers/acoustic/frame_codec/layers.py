"""Shared parts of the frame codec: row-wise layers, causal ConvNeXt stacks, overlapping windows.

Everything runs at frame rate, and on a CPU a frame's result does not depend, to the bit, on the
number of other frames in the call. So a stream of small chunks equals one offline call. Two rules
ensure this: matrix products are those of `rows.py`, and sums over time are written out.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.rows import row_linear

OVERLAP = 4  # hops in a window of analysis or synthesis


class RowLinear(nn.Linear):
    """A linear layer by `row_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return row_linear(x, self.weight, self.bias)


class ConvNeXtBlock(nn.Module):
    """Depthwise causal convolution, then a pointwise MLP, around a residual."""

    def __init__(self, width: int, *, kernel_size: int, layer_scale: float) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        bound = 1 / math.sqrt(kernel_size)
        self.depthwise = nn.Parameter(torch.empty(kernel_size, width).uniform_(-bound, bound))
        self.norm = nn.LayerNorm(width)
        self.up = RowLinear(width, 3 * width)
        self.down = RowLinear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, T, D] and the last kernel_size - 1 inputs before it; returns both updated."""
        T = x.shape[1]
        window = torch.cat([tail, x], dim=1)
        # A sum of shifted products: as fast as conv1d at frame rate, and identical for every T.
        mixed = window[:, :T] * self.depthwise[0]
        for i in range(1, self.kernel_size):
            mixed = mixed + window[:, i : i + T] * self.depthwise[i]
        y = self.down(F.gelu(self.up(self.norm(mixed))))
        return x + self.scale * y, window[:, T:].clone()


class FrameStack(nn.Module):
    """A convolution with a bounded look-ahead, ConvNeXt blocks and a norm, all at frame rate."""

    def __init__(
        self, *, in_width: int, width: int, num_layers: int, kernel_size: int, lookahead: int
    ) -> None:
        super().__init__()
        self.in_width, self.width = in_width, width
        self.kernel_size, self.lookahead = kernel_size, lookahead
        self.embed = RowLinear(kernel_size * in_width, width)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(width, kernel_size=kernel_size, layer_scale=1 / num_layers)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)

    def start(self, x: Tensor) -> list[Tensor]:
        """The state before the first frame of a batch like x [B, T, D]."""
        B, past = x.shape[0], self.kernel_size - 1
        first = x.new_zeros(B, past - self.lookahead, self.in_width)
        return [first, *(x.new_zeros(B, past, self.width) for _ in self.blocks)]

    def forward(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x: [B, T, in_width] -> [B, T', width], delayed by the look-ahead."""
        window = torch.cat([state[0], x], dim=1)
        T = window.shape[1] - self.kernel_size + 1
        if T <= 0:
            return x.new_zeros(x.shape[0], 0, self.width), [window, *state[1:]]
        taps = [window[:, i : i + T] for i in range(self.kernel_size)]
        h = self.embed(torch.cat(taps, dim=-1))  # [B, T, width]
        new_state = [window[:, T:].clone()]
        for block, tail in zip(self.blocks, state[1:], strict=True):
            h, tail = block(h, tail)
            new_state.append(tail)
        return self.norm(h), new_state

    def finish(self, state: list[Tensor]) -> Tensor:
        """The last frames [B, T, width], with silence as their look-ahead."""
        silence = state[0].new_zeros(state[0].shape[0], self.lookahead, self.in_width)
        return self(silence, state)[0]


def overlap_add(windows: Tensor, *, overlap: int) -> Tensor:
    """Windows [B, J + overlap - 1, overlap * hop] -> the hops that all cover [B, J, hop]."""
    J, hop = windows.shape[1] - overlap + 1, windows.shape[2] // overlap
    parts = windows.unflatten(-1, (overlap, hop))  # [B, J + overlap - 1, overlap, hop]
    total = parts[:, overlap - 1 :, 0]
    for i in range(1, overlap):
        total = total + parts[:, overlap - 1 - i : overlap - 1 - i + J, i]
    return total
