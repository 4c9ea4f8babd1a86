"""Optimizers, learning rate schedules and weight averaging for language models."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from lm_audio.networks.dit import DiTBlock
from lm_audio.networks.transformer import Block

OptimizerName = Literal["adamw", "muon"]
Schedule = Literal["cosine", "inverse_sqrt"]


def adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.95),
) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices, not on biases and norms."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.dim() >= 2], "weight_decay": weight_decay},
        {"params": [w for w in trained if w.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=learning_rate, betas=betas, fused=True
    )


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for some matrices of a module, AdamW for all other parameters.

    Muon orthogonalises the update of a matrix and scales it to the norm of AdamW's, so that both
    can use the same learning rate.
    """

    def __init__(
        self,
        module: nn.Module,
        matrices: Sequence[Tensor],
        *,
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        chosen = {id(weight) for weight in matrices}
        others = nn.ParameterList(w for w in module.parameters() if id(w) not in chosen)
        self._parts: dict[str, torch.optim.Optimizer] = {
            "adamw": adamw(
                others, learning_rate=learning_rate, weight_decay=weight_decay, betas=betas
            ),
            "muon": torch.optim.Muon(
                [weight for weight in matrices if weight.requires_grad],
                lr=learning_rate,
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
        }
        groups = [
            {**group, "part": name}
            for name, part in self._parts.items()
            for group in part.param_groups
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for name, part in self._parts.items():
            # Both store their state in this optimizer's, which checkpoints save and restore.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["part"] == name]
            part.step()
        return loss


def language_model_optimizer(
    name: OptimizerName, module: nn.Module, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW, or Muon for the matrices in transformer blocks."""
    if name == "adamw":
        return adamw(module, learning_rate=learning_rate, weight_decay=weight_decay)
    blocks = [block for block in module.modules() if isinstance(block, Block | DiTBlock)]
    matrices = [matrix for block in blocks for matrix in linear_weights(block)]
    return Muon(module, matrices, learning_rate=learning_rate, weight_decay=weight_decay)


def linear_weights(module: nn.Module) -> list[Tensor]:
    return [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]


def learning_rate_share(
    step: int, *, steps: int, warmup_steps: int, schedule: Schedule, final: float = 0.1
) -> float:
    """The learning rate at a step relative to its peak: linear warm-up, then the schedule.

    Args:
        final: the end value of a cosine schedule.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "inverse_sqrt":
        return math.sqrt(max(1, warmup_steps) / (step + 1))
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class EMA:
    """An exponential moving average of a module's trained weights.

    Args:
        decay: the final decay; it starts lower, so that the first steps have little influence.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self._weights = [weight for weight in module.parameters() if weight.requires_grad]
        self._average = [weight.detach().clone() for weight in self._weights]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Adds the weights after step number `step`, from 0."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, latest in zip(self._average, self._weights, strict=True):
            average.lerp_(latest, share)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within this context, the module has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def restart(self) -> None:
        """Resets the average to the current weights."""
        for average, latest in zip(self._average, self._weights, strict=True):
            average.copy_(latest)

    @torch.no_grad()
    def _swap(self) -> None:
        for average, latest in zip(self._average, self._weights, strict=True):
            other: Tensor = latest.detach().clone()
            latest.copy_(average)
            average.copy_(other)
