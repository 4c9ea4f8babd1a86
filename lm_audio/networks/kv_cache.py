"""The KV cache: keys and values of past positions and of conditions, for a batch of rows.

Shapes: R rows, H heads, L positions, D width of a head.
"""

import torch
from torch import Tensor

_SCALE = 4  # bytes of a float32
BLOCK = 64  # lengths are padded to a multiple of it, so that they do not affect rounding


def padded(length: int) -> int:
    """The next multiple of `BLOCK`."""
    return -(-length // BLOCK) * BLOCK


class KVCache:
    """Memory for a number of rows and positions, which grows when needed.

    The rows in use come first; the others have arbitrary content. In int8, for the CPU kernels, the
    D bytes of a key or value are followed by the four bytes of their scale.
    """

    def __init__(
        self, *, num_layers: int, num_heads: int, dim: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.num_rows = 0
        self._condition_lengths: list[int] = []
        room = dim + _SCALE if dtype == torch.int8 else dim
        empty = torch.zeros(num_layers, 0, num_heads, 0, room, device=device, dtype=dtype)
        self._keys, self._values = empty, empty.clone()
        self._condition_keys, self._condition_values = empty.clone(), empty.clone()
        kind = dtype if dtype.is_floating_point else torch.float32
        self._condition_bias = torch.zeros(0, 1, 1, 0, device=device, dtype=kind)

    @property
    def device(self) -> torch.device:
        return self._keys.device

    @property
    def storage(self) -> tuple[int, ...]:
        """Memory addresses; they change when the cache is reallocated."""
        return self._keys.data_ptr(), self._condition_keys.data_ptr()

    def reserve(self, num_rows: int, length: int, condition_length: int) -> None:
        """Allocates room for this many rows and positions, keeping the content."""
        self._keys = _grown(self._keys, (1, num_rows), (3, padded(length)))
        self._values = _grown(self._values, (1, num_rows), (3, padded(length)))
        size = padded(condition_length)
        self._condition_keys = _grown(self._condition_keys, (1, num_rows), (3, size))
        self._condition_values = _grown(self._condition_values, (1, num_rows), (3, size))
        self._condition_bias = _grown(
            self._condition_bias, (0, num_rows), (3, size), fill=-torch.inf
        )

    def open_row(self, condition_length: int) -> int:
        """Opens the next row, with a condition of this length, within the reserved memory."""
        row, self.num_rows = self.num_rows, self.num_rows + 1
        self._condition_lengths.append(condition_length)
        self._condition_bias[row] = -torch.inf
        self._condition_bias[row, ..., :condition_length] = 0
        return row

    def close_rows(self, start: int, stop: int) -> None:
        """Closes rows; later rows move up."""
        kept = self.num_rows - stop
        for tensor, dim in (
            (self._keys, 1), (self._values, 1), (self._condition_keys, 1),
            (self._condition_values, 1), (self._condition_bias, 0),
        ):  # fmt: skip
            moved = tensor.narrow(dim, stop, kept).clone()
            tensor.narrow(dim, start, kept).copy_(moved)
        self.num_rows -= stop - start
        del self._condition_lengths[start:stop]

    def put(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Stores k, v [H, L, D] as the first positions of a row."""
        length = k.shape[1]
        self._keys[layer, row, :, :length] = self._stored(k)
        self._values[layer, row, :, :length] = self._stored(v)

    def put_condition(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Stores the keys and values [H, L, D] of a row's condition."""
        length = k.shape[1]
        self._condition_keys[layer, row, :, :length] = self._stored(k)
        self._condition_values[layer, row, :, :length] = self._stored(v)

    def add(self, layer: int, rows: slice, positions: Tensor, k: Tensor, v: Tensor) -> None:
        """Stores k, v [R, H, D] at one position [R] of each of these rows."""
        row = torch.arange(len(k), device=positions.device)
        self._keys[layer, rows][row, :, positions] = k
        self._values[layer, rows][row, :, positions] = v

    def kept(self, layer: int, rows: slice, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values [R, H, L, D] of the first `length` positions of these rows."""
        return self._keys[layer, rows, :, :length], self._values[layer, rows, :, :length]

    def all(self, layer: int, rows: slice) -> tuple[Tensor, Tensor]:
        """Keys and values [R, H, L, D] of all allocated positions of these rows."""
        return self._keys[layer, rows], self._values[layer, rows]

    def condition_lengths(self, rows: slice) -> Tensor:
        """The lengths of these rows' conditions: [R]."""
        return torch.tensor(self._condition_lengths[rows], device=self._keys.device)

    def condition_of(self, layer: int, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `condition`, for one row and without padding."""
        length = self._condition_lengths[row]
        k, v, bias = self.condition(layer, slice(row, row + 1))
        k, v = (self._read(x[:, :, :length]) for x in (k, v))
        return k, v, bias[..., :length]

    def condition(self, layer: int, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [R, H, L, D] of these rows' conditions, and their bias [R, 1, 1, L]."""
        keys, values = self._condition_keys[layer, rows], self._condition_values[layer, rows]
        return keys, values, self._condition_bias[rows]

    def _stored(self, x: Tensor) -> Tensor:
        """Keys or values [..., D] in their stored form."""
        if self._keys.dtype != torch.int8:
            return x
        scale = x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127
        whole = (x / scale).round().to(torch.int8)
        return torch.cat([whole, scale.contiguous().view(torch.int8)], dim=-1)

    def _read(self, x: Tensor) -> Tensor:
        """Keys or values from their stored form."""
        if x.dtype != torch.int8:
            return x
        scale = x[..., -_SCALE:].contiguous().view(torch.float32)
        return x[..., :-_SCALE] * scale


def _grown(x: Tensor, *sizes: tuple[int, int], fill: float = 0.0) -> Tensor:
    """x in a tensor that has at least these sizes along these dimensions."""
    shape = list(x.shape)
    for dim, size in sizes:
        shape[dim] = max(shape[dim], size)
    if shape == list(x.shape):
        return x
    grown = x.new_full(shape, fill)
    grown[tuple(slice(0, size) for size in x.shape)] = x
    return grown
