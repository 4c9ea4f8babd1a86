"""An int8 linear layer: a quarter of the memory traffic, for steps on a CPU.

Shapes: M rows, K inputs, N outputs.
"""

import torch
from torch import Tensor, nn

from lm_audio.networks.cpu import kernels
from lm_audio.networks.cpu.linear import ROW_MULTIPLE, Linear, in_padded_rows

_LARGEST = 127
_LARGEST_OF_PAIRS = 64  # CPUs without VNNI add pairs of products in 16 bits
_ROWS_AT_ONCE = 256
_ZERO = 128  # zero point of unsigned bytes, which the CPU multiplies faster


class Int8Linear(nn.Module):
    """Approximates a linear layer with int8 weights and one scale per output.

    Inputs are quantised, too, with one scale per row. The result for a row does not depend on other
    rows, bit for bit, because integer sums are exact in any order.
    """

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        weight = layer.weight.detach()  # [N, K]
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.by_kernel = kernels.multiplies_bytes()
        adds_exactly = self.by_kernel or torch.cpu._is_vnni_supported()
        whole, self.scale, sums = _rounded(weight, _LARGEST if adds_exactly else _LARGEST_OF_PAIRS)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        if self.by_kernel:
            self.weight = kernels.byte_panels(whole)
            self.sums = sums
        else:
            self.weight = torch.ops.onednn.qlinear_prepack(whole, [ROW_MULTIPLE, self.in_features])
            self.zeros = torch.zeros(self.out_features, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_kernel:
            rows = x.reshape(-1, x.shape[-1])
            y = kernels.multiply_bytes(rows, self.weight, self.scale, self.sums, self.bias)
            return y.view(*x.shape[:-1], -1)
        y = in_padded_rows(self._multiply, x)
        return y if self.bias is None else y + self.bias

    def _multiply(self, rows: Tensor) -> Tensor:
        scale = _scale(rows)
        whole = (rows / scale).round_().add_(_ZERO).to(torch.uint8)
        y = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, _ZERO, self.weight, self.scale, self.zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return y * scale

    def _save_to_state_dict(self, *_: object) -> None:
        raise ValueError("An int8 model cannot be saved. Load it as float32.")


def _rounded(weight: Tensor, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [N, K] as int8 of at most this size, with their scales and sums [N]."""
    whole = torch.empty(weight.shape, dtype=torch.int8)
    scale, sums = torch.empty(len(weight)), torch.empty(len(weight), dtype=torch.int32)
    for start in range(0, len(weight), _ROWS_AT_ONCE):  # in parts, to save memory
        some = slice(start, start + _ROWS_AT_ONCE)
        part = weight[some].float()
        scales = _scale(part, largest)
        whole[some], scale[some] = (part / scales).round(), scales[:, 0]
        sums[some] = whole[some].sum(dim=1, dtype=torch.int32)
    return whole, scale, sums


def _scale(rows: Tensor, largest: int = _LARGEST) -> Tensor:
    """The quantisation scale of each row: [M, 1]."""
    return rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / largest
