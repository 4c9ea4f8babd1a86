"""The loss of a diffusion stage: the mean squared error of what its network predicts.

Shapes: B batch, D latent width, T frames.
"""

from typing import Self

import torch
from torch import Tensor, nn

from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import Predicts
from lm_audio.networks.condition import Known
from lm_audio.training.diffusion_batches import NUM_BINS, LatentBatch


class DiffusionObjective(nn.Module):
    """A stage's network and conditioners as one module that returns the loss."""

    def __init__(self, stage: DiffusionStage) -> None:
        super().__init__()
        if not isinstance(stage.network, nn.Module):
            raise ValueError(f"The {stage.name} stage has no weights to train.")
        self.stage = stage
        self.model = stage.network
        self.conditioners = stage.conditioners

    def train(self, mode: bool = True) -> Self:
        """Frozen conditioners stay as they are when generating, without dropout."""
        super().train(mode)
        for conditioner in self.conditioners.children():
            if not any(weight.requires_grad for weight in conditioner.parameters()):
                conditioner.eval()
        return self

    def forward(self, batch: LatentBatch) -> Tensor:
        """The sum of the squared errors of each bin of noise levels: [NUM_BINS]."""
        fused = self.conditioners(batch.conditions, frames=batch.frames)
        alpha, sigma = batch.alpha[:, None, None], batch.sigma[:, None, None]
        x = alpha * batch.latents + sigma * batch.noise
        # Networks that cannot mask take whole batches.
        masks = {} if bool(batch.mask.all()) else {"mask": batch.mask}
        output = self.model(x, batch.times, fused, **masks, **self._known(batch))
        errors = (output.float() - self._wanted(x, batch)).square().sum(dim=1)  # [B, T]
        each = torch.where(batch.judged, errors, 0.0).sum(dim=1)
        sums = torch.zeros(NUM_BINS, device=each.device)
        return sums.index_add(0, batch.bins, each) + 0 * self._all_conditioners()

    @property
    def teacher_identity(self) -> str | None:
        """Of the model that this one learns from, if any."""
        return None

    def _wanted(self, x: Tensor, batch: LatentBatch) -> Tensor:  # noqa: ARG002  # of subclasses
        """What the network is to output for x [B, D, T]."""
        alpha, sigma = batch.alpha[:, None, None], batch.sigma[:, None, None]
        return target(
            batch.latents, batch.noise, alpha=alpha, sigma=sigma, predicts=self.stage.predicts
        )

    def _known(self, batch: LatentBatch) -> dict[str, Known]:
        """The input for known frames, if the network has one."""
        if not self.stage.sees_known:
            return {}
        return {"known": Known(values=batch.latents, mask=batch.known)}

    def _all_conditioners(self) -> Tensor:
        """A zero term with all conditioner weights, so that all processes have the same gradients.

        A null, or an encoder whose texts were all dropped, would otherwise have none.
        """
        trained = [weight for weight in self.conditioners.parameters() if weight.requires_grad]
        return torch.stack([weight.sum().float() for weight in trained] or [torch.zeros(())]).sum()


def target(
    latents: Tensor, noise: Tensor, *, alpha: Tensor, sigma: Tensor, predicts: Predicts
) -> Tensor:
    """What a network is to output for alpha * latents + sigma * noise; all [B, D, T]."""
    if predicts == "epsilon":
        return noise
    if predicts == "x0":
        return latents
    if predicts == "v":
        return alpha * noise - sigma * latents
    return noise - latents
