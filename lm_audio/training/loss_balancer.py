"""Balances losses of one output by their gradients there (EnCodec, arXiv 2210.13438).

The weight of a loss then determines its share of the gradient, whatever its scale. The total has
the norm of the first loss's gradient alone, so that terms that bypass the output, such as a
commitment loss or gradient clipping, keep their proportion when more losses are added. Unlike in
the paper, that norm also limits each other loss: the gradients of a new discriminator grow a
hundredfold within a few steps, and the running mean of their norms lags behind.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class LossBalancer:
    """Keeps running means of the norms of the losses' gradients.

    Args:
        weights: the share of each loss in the gradient, relative to the sum of those present; the
            first sets the scale.
        decay: of the running means.
    """

    def __init__(self, weights: Mapping[str, float], *, decay: float = 0.999) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"Expected one or more positive weights, got {dict(weights)}.")
        self.weights = dict(weights)
        self.decay = decay
        self.sums = dict.fromkeys(weights, 0.0)  # of norms, decayed at each step
        self.counts = dict.fromkeys(weights, 0.0)

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The gradient to backpropagate from `output`, of its shape; the graph is retained.

        Args:
            losses: scalars by the names of the weights; the first is required, others may be added
                later.
        """
        first = next(iter(self.weights))
        if first not in losses or not losses.keys() <= self.weights.keys():
            raise ValueError(
                f"Unexpected losses {sorted(losses)}. Expected {first} and others of "
                f"{sorted(self.weights)}."
            )
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
        }
        norms = torch.stack([gradient.norm() for gradient in gradients.values()])
        if dist.is_available() and dist.is_initialized():  # the same in all processes
            dist.all_reduce(norms)
            norms = norms / dist.get_world_size()
        for name, norm in zip(gradients, norms.tolist(), strict=True):
            self.sums[name] = self.decay * self.sums[name] + norm
            self.counts[name] = self.decay * self.counts[name] + 1
        share = {name: self.weights[name] / sum(self.weights[n] for n in losses) for name in losses}
        total = share[first] * gradients[first]
        for name, norm in zip(gradients, norms.tolist(), strict=True):
            longest = max(norm, self.sums[name] / self.counts[name])
            if name != first and longest > 0:
                scale = self.sums[first] / self.counts[first] / longest
                total = total + share[name] * scale * gradients[name]
        return total

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"sums": dict(self.sums), "counts": dict(self.counts)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
