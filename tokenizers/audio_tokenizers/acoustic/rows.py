"""Matrix products whose result for a row does not depend on the number of rows."""

import torch.nn.functional as F
from torch import Tensor


def row_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, min_rows: int = 32
) -> Tensor:
    """`F.linear` over [..., D] whose result for a row does not depend on the other rows.

    Args:
        min_rows: rows are padded to as many; for fewer, BLAS picks other kernels.
    """
    rows = x.reshape(-1, x.shape[-1])
    missing = max(0, min_rows - rows.shape[0])
    y = F.linear(F.pad(rows, (0, 0, 0, missing)), weight, bias)
    return y[: rows.shape[0]].reshape(*x.shape[:-1], weight.shape[0])
