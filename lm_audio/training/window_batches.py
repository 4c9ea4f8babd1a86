"""Training batches of a diffusion stage whose crops all have the length of a window.

Networks of other projects take whole batches, without padding. A shorter clip is followed by
silence, which the network learns, too, as it did in its first training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from lm_audio.data.batches import Batches, Crop
from lm_audio.data.shards import SAMPLES, Shards
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.renderers.protocol import Renderer
from lm_audio.training.diffusion_batches import KnownFrames, LatentBatches
from lm_audio.training.latents import SoundLatents
from lm_audio.training.stage_batches import Dropout


class WindowBatches(LatentBatches):
    """Crops of sounds as the latents of a renderer, with the times that the stage itself gives.

    Args:
        window: latent frames of each crop.
        batch_size: crops.
        dropout, logit_normal: as for `LatentBatches`.
    """

    def __init__(
        self,
        stage: DiffusionStage,
        shards: Shards,
        *,
        renderer: Renderer,
        window: int,
        batch_size: int,
        seed: int,
        dropout: Dropout | None,
        logit_normal: bool,
    ) -> None:
        self.window = window
        super().__init__(
            stage,
            shards,
            latents=SoundLatents(renderer),
            stream=SAMPLES,
            hop_length=renderer.hop_length,
            frames=batch_size * window,
            seed=seed,
            dropout=dropout,
            known=KnownFrames() if stage.sees_known else None,
            logit_normal=logit_normal,
        )

    def _crops(self, lengths: np.ndarray, frames: int) -> Batches:
        filled = np.where(lengths > 0, np.maximum(lengths, self.window), 0)
        return Batches(filled, longest=self.window, frames=frames, seed=self.seed)

    def _values(self, crop: Crop) -> Tensor:
        samples = super()._values(crop)
        return F.pad(samples, (0, self.window * self.hop_length - samples.shape[1]))

    def _conditions(self, crops: Sequence[Crop], number: int) -> dict[str, list[Any | None]]:
        lengths, rate = self.shards.lengths(self.stream), float(self.stage.makes.rate)
        seconds = {
            "start": [crop.start / rate for crop in crops],
            "total": [int(lengths[crop.index]) / self.hop_length / rate for crop in crops],
        }
        timing: dict[str, list[Any | None]] = {
            name: list(seconds[kind]) for name, kind in self.stage.timing.items()
        }
        return super()._conditions(crops, number) | timing


def training_window(stage: DiffusionStage, shards: Shards, *, hop_length: int) -> int:
    """The frames of the longest clip that the network takes, at most the stage's window."""
    longest = -(-int(shards.lengths(SAMPLES).max(initial=0)) // hop_length)
    return min(stage.window_frames, stage.filled(max(1, longest)))
