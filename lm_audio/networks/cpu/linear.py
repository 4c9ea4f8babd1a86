"""A linear layer whose result for a row does not depend on the batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.cpu import kernels

ROW_MULTIPLE = 8  # of packed weights, for oneDNN
PLAIN_MULTIPLE = 16  # of plain weights: MKL on Intel has other kernels for up to 15 rows


class Linear(nn.Linear):
    """`nn.Linear` whose result for a row does not depend, bit for bit, on the number of rows.

    CPU libraries multiply rows in groups and the remainder with another kernel, which rounds
    differently. So rows are padded to a multiple, which costs almost nothing: a few rows take as
    long as eight or sixteen. Not used in training.
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
        """Rearranges the weights for the CPU, which makes steps several times faster.

        Values, size and saved form stay the same, and `train()` undoes it. With the kernels of this
        package inputs and outputs are float32, whatever the dtype of the weights.
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
        bias = None if self.bias is None else self.bias.to(rows.dtype)
        return F.linear(rows, self.weight.to(rows.dtype), bias)

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


def product_dtype(weights: torch.dtype, device: torch.device) -> torch.dtype:
    """The precision to multiply in: that of the weights, or float32 where bfloat16 is slower."""
    is_slow = device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
    return torch.float32 if is_slow else weights


def in_padded_rows(
    multiply: Callable[[Tensor], Tensor], x: Tensor, multiple: int = ROW_MULTIPLE
) -> Tensor:
    """Applies `multiply` to the rows of x [..., D], padded to a multiple."""
    rows = x.reshape(-1, x.shape[-1])
    missing = -len(rows) % multiple
    if missing:
        rows = F.pad(rows, (0, 0, 0, missing))
    y = multiply(rows)
    return y[: len(y) - missing].view(*x.shape[:-1], y.shape[-1])
