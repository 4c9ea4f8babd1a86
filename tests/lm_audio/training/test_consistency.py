"""Distillation, compared with what a teacher makes in many steps."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import Kind, NoiseSchedule, Predicts, estimate
from lm_audio.networks.condition import Fused
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal
from lm_audio.training.consistency_objective import ConsistencyObjective, output_for
from lm_audio.training.diffusion_batches import NUM_BINS, LatentBatch
from lm_audio.training.diffusion_objective import target
from lm_audio.training.latents import sample_latents

WIDTH, T, SPREAD, SCALE = 4, 16, 0.5, 3.0
SIGNAL = Signal(kind="latents", content="latents", rate=50, width=WIDTH)  # type: ignore[arg-type]
LABELS = ("rain", "dog", "sea")


class Gaussian(nn.Module):
    """The exact velocity of a flow to normal data around the mean that a label stands for."""

    def forward(self, x: Tensor, times: Tensor, fused: Fused, **_: Any) -> Tensor:
        assert fused.sum is not None
        mean, sigma = fused.sum.transpose(1, 2), times[:, None, None]
        alpha = 1 - sigma
        power = (alpha * SPREAD) ** 2 + sigma**2
        x0 = mean + alpha * SPREAD**2 / power * (x - alpha * mean)
        return (x - x0) / sigma.clamp(min=1e-6)


class Linear(nn.Module):
    """A velocity that is linear in the signal and in the mean, with learned shares of each."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.out = nn.Linear(32, 2)

    def forward(self, x: Tensor, times: Tensor, fused: Fused, **_: Any) -> Tensor:
        assert fused.sum is not None
        shares = self.out(self.shares(times[:, None]))
        return shares[:, :1, None] * x + shares[:, 1:, None] * fused.sum.transpose(1, 2)


def stage_of(network: nn.Module, conditioners: Conditioners) -> DiffusionStage:
    return DiffusionStage(
        name="latents",
        network=network,
        predicts="flow",
        schedule=NoiseSchedule(kind="flow"),
        conditioners=conditioners,
        makes=SIGNAL,
        window_frames=T,
        overlap_frames=0,
        sampling=Denoising(steps=200, solver="euler", guidance_scale=SCALE),
    )


def new_batch(size: int, generator: torch.Generator) -> LatentBatch:
    shares = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    shares = shares.clamp(1e-3, 1 - 1e-3)
    labels = [LABELS[i % len(LABELS)] for i in torch.randperm(size, generator=generator).tolist()]
    return LatentBatch(
        latents=SPREAD * torch.randn(size, WIDTH, T, generator=generator),
        noise=torch.randn(size, WIDTH, T, generator=generator),
        shares=shares,
        alpha=1 - shares,
        sigma=shares,
        times=shares,
        mask=torch.ones(size, T, dtype=torch.bool),
        known=torch.zeros(size, T, dtype=torch.bool),
        frames=torch.arange(T).expand(size, T),
        conditions={"label": labels},
    )


def test_one_pass_of_the_student_is_the_whole_run_of_a_guided_teacher() -> None:
    torch.manual_seed(0)
    conditioners = Conditioners({"label": LabelConditioner(LABELS, WIDTH)}, {"label": "sum"})
    for weight in conditioners.parameters():
        weight.requires_grad_(False)
    nulls: Any = conditioners["label"]
    nulls.null.embedding.zero_()  # so that guidance multiplies the mean
    teacher = stage_of(Gaussian(), conditioners)
    student = stage_of(Linear(), deepcopy(conditioners))
    objective = ConsistencyObjective(student, teacher=teacher, guidance_scale=SCALE)
    optimizer = torch.optim.Adam(student.network.parameters(), lr=1e-2)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(1)
    steps = 1500
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        batch = new_batch(24, generator)
        loss = objective(batch).sum() / batch.counts(NUM_BINS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    few = Denoising(steps=1, solver="ping-pong", guidance_scale=1.0)
    for label in LABELS:
        made, wanted, undistilled = (
            sample_latents(
                replace(stage, sampling=sampling),
                num_frames=T,
                seed=3,
                conditions={"label": label},
            )
            for stage, sampling in (
                (student, few),
                (teacher, teacher.sampling),
                (teacher, replace(few, guidance_scale=SCALE)),
            )
        )
        error = (made - wanted).square().mean().sqrt()
        assert error < 0.1 * wanted.std()
        assert error < 0.3 * (undistilled - wanted).square().mean().sqrt()


@pytest.mark.parametrize("predicts", ["epsilon", "v", "x0", "flow"])
@pytest.mark.parametrize("kind", ["scaled_linear", "cosine", "flow", "crash"])
def test_outputs_for_the_signal_are_those_that_training_asks_for(
    predicts: Predicts, kind: Kind
) -> None:
    schedule = NoiseSchedule(kind=kind)
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(2, 3, WIDTH, T, generator=generator)
    levels = schedule.at(torch.tensor([0.2, 0.5, 0.9]).numpy())
    alpha, sigma = (torch.from_numpy(each).float()[:, None, None] for each in levels[:2])
    x = alpha * signal + sigma * noise
    made = output_for(signal, x, alpha=alpha, sigma=sigma, predicts=predicts)
    wanted = target(signal, noise, alpha=alpha, sigma=sigma, predicts=predicts)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    found = estimate(made, x, alpha=alpha, sigma=sigma, predicts=predicts)
    torch.testing.assert_close(found.x0, signal, rtol=1e-4, atol=1e-4)


def test_the_teacher_is_no_part_of_what_is_trained_or_saved() -> None:
    conditioners = Conditioners({"label": LabelConditioner(LABELS, WIDTH)}, {"label": "sum"})
    student, teacher = stage_of(Linear(), conditioners), stage_of(Linear(), deepcopy(conditioners))
    alone = {*ConsistencyObjective(student, teacher=teacher, guidance_scale=1.0).state_dict()}
    assert len(alone) == len({*Linear().state_dict()}) + len({*conditioners.state_dict()})
