"""Balances losses of one output by their gradients there (EnCodec, arXiv 2210.13438).

A loss then pulls as hard as its weight says, however large its values are. The gradients together
are as long as that of the first loss alone: what does not pass through the output, a commitment
loss or a limit on the gradient's norm, keeps its proportion when more losses join. Unlike in the
paper, no other loss ever pulls harder than that: the gradients of a discriminator that has just
begun grow a hundredfold within a few steps, and the running mean of their norms lags behind.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor


class LossBalancer:
    """Keeps running means of the norms of the losses' gradients.

    Args:
        weights: the share of each loss in the gradient, of the sum of those present; the first
            gives the scale.
        decay: of the running means.
    """

    def __init__(self, weights: Mapping[str, float], *, decay: float = 0.999) -> None:
        if not weights or min(weights.values()) <= 0:
            raise ValueError(f"Got weights {dict(weights)}; expected one or more, all positive.")
        self.weights = dict(weights)
        self.decay = decay
        self.sums = dict.fromkeys(weights, 0.0)  # of norms, faded by the decay at each step
        self.counts = dict.fromkeys(weights, 0.0)

    def gradient(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """The gradient to go back from `output` with, of its shape; the graph is kept.

        Args:
            losses: scalars by their names among the weights; the first must be there, others may
                join later.
        """
        first = next(iter(self.weights))
        if first not in losses or not losses.keys() <= self.weights.keys():
            raise ValueError(
                f"Got losses {sorted(losses)}; expected {first} and others of "
                f"{sorted(self.weights)}."
            )
        gradients = {
            name: torch.autograd.grad(loss, output, retain_graph=True)[0]
            for name, loss in losses.items()
        }
        norms = torch.stack([gradient.norm() for gradient in gradients.values()])
        if dist.is_available() and dist.is_initialized():  # processes must keep in step
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
