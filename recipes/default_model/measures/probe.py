"""A linear probe: logistic regression from vectors to labels.

Shapes: n vectors, D width, V labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A fitted probe: weight [V, D] and bias [V] for standardised vectors."""

    labels: tuple[str, ...]
    mean: Tensor
    deviation: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> list[str]:
        """The likeliest label of each of the vectors [n, D]."""
        x = (vectors.double() - self.mean) / self.deviation
        best = F.linear(x, self.weight, self.bias).argmax(dim=1)
        return [self.labels[i] for i in best.tolist()]


def fit_probe(vectors: Tensor, labels: Sequence[str], *, penalty: float = 1.0) -> Probe:
    """Fits vectors [n, D] to their labels.

    Equal to scikit-learn's `LogisticRegression(C=1 / penalty)` after its `StandardScaler`.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
        raise ValueError(f"Got {len(names)} distinct labels; expected at least two.")
    truth = torch.tensor([names.index(label) for label in labels])
    x = vectors.double()
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    x = (x - mean) / deviation
    weight = torch.zeros(len(names), x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = F.cross_entropy(F.linear(x, weight, bias), truth, reduction="sum")
        total = error + 0.5 * penalty * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return Probe(
        labels=names,
        mean=mean,
        deviation=deviation,
        weight=weight.detach(),
        bias=bias.detach(),
    )
