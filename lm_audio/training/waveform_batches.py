"""Training batches of models of waveforms: random segments with noise and levels.

Everything random is a function of the seed, the number of the batch and the place in it.

Shapes: B batch, C channels, N samples.
"""

import numpy as np
import torch

from lm_audio.data.corpus import SegmentSampler
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.training.diffusion_batches import LatentBatch
from lm_audio.training.low_discrepancy import low_discrepancy

LEVELS = NoiseSchedule(kind="angle")
"""Uniform shares are uniform angles of (alpha, sigma)."""
_MARGIN = 1e-4  # no segment is without noise or without signal


class WaveformBatches:
    """Endless batches; each channel of a segment is the same.

    Noise levels follow a low-discrepancy sequence: less noise in the loss than with independent
    ones, over any number of batches.
    """

    def __init__(self, sampler: SegmentSampler, *, num_channels: int, seed: int) -> None:
        self.sampler, self.num_channels, self.seed = sampler, num_channels, seed

    def batch(self, number: int, *, part: int = 0, num_parts: int = 1) -> LatentBatch:
        """Batch `number`, or the items of one process."""
        size = self.sampler.batch_size
        items = range(part, size, num_parts)
        samples = self.sampler.batch(number, part=part, num_parts=num_parts)
        samples = samples.expand(-1, self.num_channels, -1).contiguous()  # [B, C, N]
        noise = np.stack([self._noise(number, item, samples.shape[1:]) for item in items])
        shares = low_discrepancy(number * size, size, seed=self.seed)[list(items)]
        shares = shares.clip(_MARGIN, 1 - _MARGIN)
        alpha, sigma, times = (torch.from_numpy(each).float() for each in LEVELS.at(shares))
        mask = torch.ones(len(samples), samples.shape[2], dtype=torch.bool)
        return LatentBatch(
            latents=samples,
            noise=torch.from_numpy(noise),
            shares=torch.from_numpy(shares),
            alpha=alpha,
            sigma=sigma,
            times=times,
            mask=mask,
            known=~mask,
            frames=torch.arange(samples.shape[2]).expand(len(samples), -1),
            conditions={},
        )

    def _noise(self, number: int, item: int, shape: torch.Size) -> np.ndarray:
        random = np.random.default_rng([self.seed, number, item, 3])
        return random.standard_normal(tuple(shape), dtype=np.float32)
