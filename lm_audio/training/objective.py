"""The loss of a stage: cross-entropy of each codebook's next, or masked, token.

Shapes: B batch, K codebooks, J streams of the model, S steps after the pattern, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.training.stage_batches import IGNORED, TrainingBatch


class StageObjective(nn.Module):
    """A stage's model and conditioners as one module that returns the loss.

    The softmax covers the token's own codebook only, as in sampling.
    """

    def __init__(self, stage: TokenStage) -> None:
        super().__init__()
        self.stage = stage
        self.model = stage.model
        self.conditioners = stage.conditioners

    def forward(self, batch: TrainingBatch) -> Tensor:
        """The sum of the losses of each codebook's targets: [K]."""
        fused = self.conditioners(batch.conditions, frames=batch.frames)
        logits = self.model(  # [B, J, S, V]
            batch.inputs, fused=fused, mask=batch.mask, reach=batch.reach
        )
        codebook, targets = batch.codebook, batch.targets
        num_codebooks = self.stage.num_codebooks
        size = self.stage.pattern.codebook_size if isinstance(self.stage, LMStage) else None
        if size is not None:  # one stream: select the range of the step's codebook
            own = codebook.clamp(min=0)
            ranges = logits[..., : num_codebooks * size].unflatten(-1, (num_codebooks, -1))
            logits = ranges.take_along_dim(own[..., None, None], dim=-2)[..., 0, :]  # [B, 1, S, v]
            targets = torch.where(codebook < 0, IGNORED, targets - own * size)
        # In the memory order of the heads, to avoid a copy: [B, S, J, V].
        losses = F.cross_entropy(
            logits.transpose(1, 2).flatten(0, 2).float(),
            targets.transpose(1, 2).flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        sums = torch.zeros(num_codebooks, device=losses.device)
        index = codebook.transpose(1, 2).flatten().clamp(min=0)  # the loss of empty cells is 0
        return sums.index_add(0, index, losses) + 0 * self._all_conditioners()

    def _all_conditioners(self) -> Tensor:
        """A zero term with all conditioner weights, so that all processes have the same gradients.

        A null, or an encoder whose texts were all dropped, would otherwise have none.
        """
        trained = [weight for weight in self.conditioners.parameters() if weight.requires_grad]
        return torch.stack([weight.sum().float() for weight in trained] or [torch.zeros(())]).sum()
