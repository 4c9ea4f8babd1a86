"""A linear layer that gives each row what it would give it in any other company."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.cpu import kernels

ROW_MULTIPLE = 8  # of packed weights, for oneDNN
PLAIN_MULTIPLE = 16  # of plain weights: MKL on Intel has other kernels for up to 15 rows


class Linear(nn.Linear):
    """`nn.Linear` whose result for a row does not depend, bit for bit, on the number of rows.

    CPU libraries multiply some rows at a time and the remainder by another kernel, which rounds
    otherwise. So the rows are padded to a multiple, which costs next to nothing: few rows take as
    long as eight or sixteen. Training has no use for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        trains = torch.is_grad_enabled() and (self.weight.requires_grad or x.requires_grad)
        if x.device.type != "cpu" or trains:
            if self.by_kernel:
                bias = None if self.bias is None else self.bias.to(x.dtype)
                return F.linear(x, self._plain_weight().to(x.dtype), bias)
            return F.linear(x, self._plain_weight(), self.bias)
        if self.by_kernel:
            rows = x.reshape(-1, x.shape[-1])
            y = kernels.multiply(rows, self.weight, self.bias, self.out_features)
            return y.view(*x.shape[:-1], -1)
        return in_padded_rows(self._multiply, x, ROW_MULTIPLE if self.packed else PLAIN_MULTIPLE)

    def pack(self) -> None:
        """Lays the weights out as the CPU reads them fastest; steps take a fraction of the time.

        They are the same numbers, take the same room, and are saved as ever. `train()` undoes it.
        With the kernels of this package it takes and gives float32, whatever the weights are.
        """
        weight = self.weight.detach()
        if kernels.available() and weight.dtype in (torch.float32, torch.bfloat16):
            self._lay_out(kernels.panels(weight))
        else:
            self._lay_out(torch.ops.mkldnn._reorder_linear_weight(weight, ROW_MULTIPLE))

    @property
    def packed(self) -> bool:
        return self.weight.is_mkldnn or self.by_kernel

    def train(self, mode: bool = True) -> "Linear":
        if mode and self.packed:
            self._lay_out(self._plain_weight().detach())
        return super().train(mode)

    @property
    def by_kernel(self) -> bool:
        """Whether it is packed for the kernels of this package."""
        return self.weight.dim() == 3

    def _lay_out(self, weight: Tensor) -> None:
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)

    def _multiply(self, rows: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, "none", [], "")
        return F.linear(rows, self.weight, self.bias)

    def _plain_weight(self) -> Tensor:
        if self.by_kernel:
            return kernels.from_panels(self.weight, self.out_features)
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    def _save_to_state_dict(
        self, destination: dict[str, Tensor], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.packed:
            destination[prefix + "weight"] = self._plain_weight()


def in_padded_rows(
    multiply: Callable[[Tensor], Tensor], x: Tensor, multiple: int = ROW_MULTIPLE
) -> Tensor:
    """What `multiply` makes of the rows of x [..., D], given a whole multiple of them."""
    rows = x.reshape(-1, x.shape[-1])
    missing = -len(rows) % multiple
    if missing:
        rows = F.pad(rows, (0, 0, 0, missing))
    y = multiply(rows)
    return y[: len(y) - missing].view(*x.shape[:-1], y.shape[-1])
