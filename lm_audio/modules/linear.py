"""A linear layer that gives each row what it would give it in any other company."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROW_MULTIPLE = 8  # multiples of 4 are enough on CPUs with AVX-512


class Linear(nn.Linear):
    """`nn.Linear` whose result for a row does not depend, bit for bit, on the number of rows.

    CPU libraries multiply some rows at a time and the remainder by another kernel, which rounds
    otherwise. So the rows are padded to a multiple, which costs next to nothing: few rows take as
    long as eight. Training has no use for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        num_rows = x.numel() // self.in_features
        missing = -num_rows % ROW_MULTIPLE
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        if not missing or x.device.type != "cpu" or trains:
            return F.linear(x, self.weight, self.bias)
        rows = F.pad(x.reshape(num_rows, -1), (0, 0, 0, missing))
        y = F.linear(rows, self.weight, self.bias)[:num_rows]
        return y.reshape(*x.shape[:-1], self.out_features)
