"""A linear layer that gives each row what it would give it in any other company."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STABLE_ROWS = 8  # from 4 rows on, CPU matrix products round each row alike; doubled to be safe


class Linear(nn.Linear):
    """`nn.Linear` whose result for a row does not depend, bit for bit, on the number of rows.

    CPU libraries multiply one to three rows by other kernels, which round otherwise. Such inputs
    are padded, at no cost: those kernels are no faster. Training has no use for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        num_rows = x.numel() // self.in_features
        if num_rows >= STABLE_ROWS or x.device.type != "cpu" or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        rows = F.pad(x.reshape(num_rows, -1), (0, 0, 0, STABLE_ROWS - num_rows))
        y = F.linear(rows, self.weight, self.bias)[:num_rows]
        return y.reshape(*x.shape[:-1], self.out_features)
