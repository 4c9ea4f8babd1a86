"""The loss of distillation: a network that gets from any noise level to the signal in one pass.

Consistency distillation (arXiv 2303.01469), with guidance in the teacher (arXiv 2310.04378): at
each noise level the student is to find the signal that it finds one short step of the teacher
further on. At the last step that is the teacher's signal, and training carries it to higher levels.
The distance is measured in the network's output, so all levels count alike.

Shapes: B batch, D latent width, T frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audio_tokenizers.identity import hash_model
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import Predicts, estimate
from lm_audio.networks.condition import Known
from lm_audio.training.diffusion_batches import LatentBatch
from lm_audio.training.diffusion_objective import DiffusionObjective

NUM_INTERVALS = 32
"""Steps of the teacher from noise to signal."""


class ConsistencyObjective(DiffusionObjective):
    """The objective of a stage that learns from a teacher of the same kind.

    Args:
        stage: the student, with its own weights.
        guidance_scale: of the teacher; the student needs no guidance.
        intervals: steps of the teacher from noise to signal.
    """

    def __init__(
        self,
        stage: DiffusionStage,
        *,
        teacher: DiffusionStage,
        guidance_scale: float,
        intervals: int = NUM_INTERVALS,
    ) -> None:
        super().__init__(stage)
        self._teacher = teacher  # neither trained nor saved: a stage is not a module
        self.guidance_scale, self.intervals = guidance_scale, intervals

    @property
    def teacher_identity(self) -> str:
        network, conditioners = self._teacher.network, self._teacher.conditioners
        weights = [x.state_dict() for x in (network, conditioners) if isinstance(x, nn.Module)]
        prefixed = {f"{i}.{name}": w for i, one in enumerate(weights) for name, w in one.items()}
        return hash_model(f"{self.guidance_scale} {self.intervals}", prefixed)

    @torch.no_grad()
    def _wanted(self, x: Tensor, batch: LatentBatch) -> Tensor:
        alpha, sigma = batch.alpha[:, None, None], batch.sigma[:, None, None]
        predicts = self.stage.predicts
        now = estimate(
            self._guided(x, batch), x, alpha=alpha, sigma=sigma, predicts=self._teacher.predicts
        )
        shares = (batch.shares - 1 / self.intervals).clamp(min=0)
        next_alpha, next_sigma, times = (
            torch.from_numpy(each).to(x) for each in self.stage.schedule.at(shares.cpu().numpy())
        )
        next_alpha, next_sigma = next_alpha[:, None, None], next_sigma[:, None, None]
        ahead = next_alpha * now.x0 + next_sigma * now.noise
        found = estimate(
            _output(self.stage, ahead, times, batch, batch.conditions, self._known(batch)),
            ahead,
            alpha=next_alpha,
            sigma=next_sigma.clamp(min=1e-8),
            predicts=predicts,
        )
        is_last = (shares == 0).to(x.device)[:, None, None]
        x0 = torch.where(is_last, now.x0, found.x0)
        return output_for(x0, x, alpha=alpha, sigma=sigma, predicts=predicts)

    def _guided(self, x: Tensor, batch: LatentBatch) -> Tensor:
        """The teacher's output with guidance: [B, D, T]."""
        teacher, known = self._teacher, self._known(batch)
        for module in (teacher.network, teacher.conditioners):
            if isinstance(module, nn.Module):
                module.to(x.device)
        output = _output(teacher, x, batch.times, batch, batch.conditions, known)
        if self.guidance_scale == 1 or not teacher.conditions:
            return output
        dropped = {name: [None] * len(x) for name in teacher.conditions}
        free = _output(teacher, x, batch.times, batch, {**batch.conditions, **dropped}, known)
        return free + self.guidance_scale * (output - free)


def output_for(
    x0: Tensor, x: Tensor, *, alpha: Tensor, sigma: Tensor, predicts: Predicts
) -> Tensor:
    """The output of a network that finds the signal x0 in x; all [B, D, T]."""
    if predicts == "epsilon":
        return (x - alpha * x0) / sigma
    if predicts == "x0":
        return x0
    if predicts == "v":
        return (alpha * x - (alpha**2 + sigma**2) * x0) / sigma
    return (x - (alpha + sigma) * x0) / sigma


def _output(
    stage: DiffusionStage,
    x: Tensor,
    times: Tensor,
    batch: LatentBatch,
    conditions: Mapping[str, Sequence[Any | None]],
    known: Mapping[str, Known],
) -> Tensor:
    fused = stage.conditioners(conditions, frames=batch.frames)
    return stage.network(x, times, fused, mask=batch.mask, **known).float()
