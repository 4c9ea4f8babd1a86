"""Single- and multi-process training through accelerate.

`accelerate launch` chooses between one process, DDP and FSDP; `recipes/fsdp.yaml` configures the
last. Recipes do not depend on the choice, and a run can resume with another.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lm_audio.conditioners.description import text_encoders
from lm_audio.conditioners.frozen import FrozenEncoder
from lm_audio.data.batches import seed_of
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.networks.dit import DiTBlock
from lm_audio.networks.transformer import CausalBlock
from lm_audio.training.checkpoints import Checkpoints, check_same_settings
from lm_audio.training.diffusion_batches import LatentBatch
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import EMA
from lm_audio.training.stage_batches import TrainingBatch

Precision = Literal["bfloat16", "float32"]
Objective = StageObjective | DiffusionObjective
AnyStage = TypeVar("AnyStage", TokenStage, DiffusionStage)
AnyBatch = TypeVar("AnyBatch", TrainingBatch, LatentBatch)
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
# Frozen parameters are already in the model that a run starts from.
_TRAINED = StateDictOptions(
    full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False
)


def new_accelerator(precision: Precision) -> Accelerator:
    """The accelerator of this process."""
    return Accelerator(
        cpu=not torch.accelerator.is_available(),  # needed for CPU processes to communicate
        mixed_precision="bf16" if precision == "bfloat16" else "no",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLoss:
    """The loss of one step over all processes.

    Args:
        sums: [K], the summed loss of each codebook's targets.
        counts: [K], the number of targets of each codebook.
    """

    sums: Tensor
    counts: Tensor

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    @property
    def by_codebook(self) -> list[float]:
        return [float(total / count) for total, count in zip(self.sums, self.counts, strict=True)]


class Processes:
    """The processes of a run, including this one.

    Args:
        accumulation: batches per process and step.
    """

    def __init__(self, *, precision: Precision, accumulation: int = 1) -> None:
        self.accelerator = new_accelerator(precision)
        self.accumulation = accumulation
        self._blank: TokenStage | DiffusionStage | None = None

    @property
    def count(self) -> int:
        return self.accelerator.num_processes

    @property
    def is_main(self) -> bool:
        return self.accelerator.is_main_process

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def batches_per_step(self) -> int:
        return self.accumulation * self.count

    def batch_numbers(self, step: int) -> list[int]:
        """The batches of this process in a step; those of all processes are a range."""
        first = step * self.batches_per_step + self.accelerator.process_index
        return [first + i * self.count for i in range(self.accumulation)]

    def prepare(
        self, objective: Objective, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Moves, wraps or shards the objective and the optimizer."""
        for encoder in _frozen(objective.stage):
            encoder.to(self.device)
        if self._shards:
            self._blank = _blank_copy(objective)
        if self._shards and self.device.type == "cpu":  # unsupported by accelerate
            if self.accelerator.mixed_precision == "bf16":  # as accelerate does it
                lower = torch.autocast("cpu", torch.bfloat16)
                objective.forward = lower(objective.forward)  # type: ignore[method-assign]
            return _shard(objective, optimizer)
        return self.accelerator.prepare(objective, optimizer)

    def accumulate(
        self,
        module: nn.Module,
        batches: Sequence[tuple[int, AnyBatch]],
        *,
        num_codebooks: int,
        seed: int,
    ) -> StepLoss:
        """Accumulates the gradients of a step's loss, the mean over the targets of all processes.

        Args:
            batches: this process's share, numbered; dropout is seeded by `seed` and the number.
        """
        counts = torch.stack([batch.counts(num_codebooks) for _, batch in batches]).sum(dim=0)
        counts = self.sum(counts)
        # Gradients are averaged over processes, but the loss is a sum over them.
        scale = self.count / counts.sum()
        sums = torch.zeros(num_codebooks, device=self.device)
        for place, (number, batch) in enumerate(batches, start=1):
            torch.manual_seed(seed_of(seed, number))
            losses = module(batch.to(self.device))
            self.backward(module, losses.sum() * scale, is_last=place == len(batches))
            sums += losses.detach()
        return StepLoss(sums=self.sum(sums), counts=counts)

    def backward(self, module: nn.Module, loss: Tensor, *, is_last: bool) -> None:
        """Backpropagates a batch; gradients are averaged over processes in a step's last batch."""
        alone = is_last or self._shards
        with nullcontext() if alone else self.accelerator.no_sync(module):
            self.accelerator.backward(loss)

    def step(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, max_norm: float
    ) -> float:
        """Clips the gradients, takes a step if they are finite, and returns their norm."""
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(weights, max_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if bool(torch.isfinite(norm)):
            optimizer.step()
        optimizer.zero_grad()
        return float(norm)

    def batches(
        self, batches: Sequence[AnyBatch], *, steps: range, num_workers: int = 0
    ) -> Iterator[list[tuple[int, AnyBatch]]]:
        """The numbered batches of this process, step by step; workers prefetch them."""
        numbers = [number for step in steps for number in self.batch_numbers(step)]
        loader: DataLoader[AnyBatch] = DataLoader(
            batches,  # type: ignore[arg-type]  # a Sequence is what it needs
            sampler=numbers,
            batch_size=None,
            num_workers=num_workers,
        )
        numbered = zip(numbers, loader, strict=True)
        for _ in steps:
            yield list(islice(numbered, self.accumulation))

    def mean_loss(
        self, module: nn.Module, batches: Sequence[AnyBatch], *, num_batches: int
    ) -> Tensor:
        """The loss of each codebook over the first batches, split between the processes: [K].

        NaN for codebooks without targets, as masked ones may be.

        Args:
            num_batches: the maximum number of batches.
        """
        module.eval()
        sums = None
        num_batches = min(num_batches, len(batches))
        for round_ in range(-(-num_batches // self.count)):
            batch = batches[round_ * self.count + self.accelerator.process_index].to(self.device)
            with torch.no_grad():
                losses = module(batch)
            counts = batch.counts(len(losses)).to(losses)
            pair = torch.stack([losses, counts])
            sums = pair if sums is None else sums + pair
        module.train()
        assert sums is not None
        losses, counts = self.sum(sums)
        return losses / counts

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.accelerator.reduce(values.to(self.device), "sum")

    def state(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, average: EMA
    ) -> dict[str, Any]:
        """The unsharded training state, for the main process to save; all processes must call."""
        weights = get_model_state_dict(module, options=_TRAINED)
        with average.swapped():
            averaged = deepcopy(get_model_state_dict(module, options=_TRAINED))
        made = get_optimizer_state_dict(module, _bare(optimizer), options=_TRAINED)
        return {"weights": weights, "average": averaged, "optimizer": made}

    def restore(
        self,
        state: Mapping[str, Any],
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: EMA,
    ) -> None:
        """Restores a `state` from any number of processes."""
        set_model_state_dict(module, state["average"], options=_TRAINED)
        average.restart()
        set_model_state_dict(module, state["weights"], options=_TRAINED)
        set_optimizer_state_dict(module, _bare(optimizer), state["optimizer"], options=_TRAINED)

    def resume(
        self,
        checkpoints: Checkpoints,
        settings: Mapping[str, Any],
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: EMA,
    ) -> int:
        """Restores the latest checkpoint and returns its step; 0 if there is none.

        Raises ValueError unless the checkpoint's run had the same settings.
        """
        latest = checkpoints.latest()
        if latest is None:
            return 0
        state = checkpoints.read(latest)
        check_same_settings(state["settings"], settings, path=latest.path)
        self.restore(state, module, optimizer, average)
        return latest.step

    @contextmanager
    def gathered(self, module: nn.Module, stage: AnyStage) -> Iterator[AnyStage]:
        """The current stage, unsharded and ready to generate, on the main process.

        All processes must enter.
        """
        if self._blank is None:
            module.eval()
            yield stage
            module.train()
            return
        weights = get_model_state_dict(module, options=_WHOLE)
        copy = cast(AnyStage, deepcopy(self._blank))
        if self.is_main:
            objective = objective_of(copy)
            objective.load_state_dict(weights, assign=True)
            objective.to(self.device)
        yield copy

    @property
    def _shards(self) -> bool:
        return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and self.count > 1


def objective_of(stage: TokenStage | DiffusionStage) -> Objective:
    """The stage as one module that returns its loss."""
    return DiffusionObjective(stage) if isinstance(stage, DiffusionStage) else StageObjective(stage)


def _shard(
    objective: Objective, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Shards block by block, and passes the shards to the optimizer."""
    names = {id(weight): name for name, weight in objective.named_parameters()}
    for module in objective.modules():
        if isinstance(module, CausalBlock | DiTBlock):
            fully_shard(module)
    fully_shard(objective)
    shards = dict(objective.named_parameters())
    for group in optimizer.param_groups:
        group["params"] = [shards[names[id(weight)]] for weight in group["params"]]
    return objective, optimizer


def _blank_copy(objective: Objective) -> TokenStage | DiffusionStage:
    """The stage with weights on the meta device, sharing frozen text encoders."""
    stage = objective.stage
    copies: dict[int, Any] = {
        id(weight): nn.Parameter(weight.to("meta"), requires_grad=weight.requires_grad)
        for weight in objective.parameters()
    }
    copies |= {id(encoder): encoder for encoder in _frozen(stage)}
    return deepcopy(stage, copies)


def _frozen(stage: TokenStage | DiffusionStage) -> list[FrozenEncoder]:
    found = text_encoders(stage.conditioners).values()
    return [encoder for encoder in found if isinstance(encoder, FrozenEncoder)]


def _bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
