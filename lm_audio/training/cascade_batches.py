"""Training batches of a cascade of waveforms: crops of samples, and the same sound at a lower rate.

Shapes: B batch, C channels, N samples, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.resampling import resample
from lm_audio.conditioners.aligned_signal import AlignedSignal, LevelConditioner, augmented
from lm_audio.data.batches import Batches, Crop
from lm_audio.data.corpus import FULL_SCALE
from lm_audio.data.shards import SAMPLES, Shards
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.training.diffusion_batches import LatentBatches
from lm_audio.training.stage_batches import Dropout


@dataclass(frozen=True, kw_only=True)
class Waveforms:
    """Turns 16-bit samples [C, N] of one rate into mono samples [1, T] of another.

    Args:
        length: T; shorter sounds are padded with silence.
    """

    from_rate: int
    to_rate: int
    length: int

    def __call__(self, samples: Tensor) -> Tensor:
        mono = samples.float().mean(dim=0, keepdim=True) / FULL_SCALE
        made = resample(mono, self.from_rate, self.to_rate)[:, : self.length]
        return F.pad(made, (0, self.length - made.shape[1]))


class CascadeBatches(LatentBatches):
    """Batches of whole windows of a generator or a cascader.

    A cascader follows its window at the lower rate, with noise of a random level, which is another
    condition; in evaluation, too.

    Args:
        batch_size: windows per batch.
    """

    def __init__(
        self,
        stage: DiffusionStage,
        shards: Shards,
        *,
        batch_size: int,
        seed: int,
        dropout: Dropout | None,
    ) -> None:
        rate, window = int(stage.makes.rate), stage.window_frames
        found = shards.streams.get(SAMPLES)
        if found is None or found.rate % rate:
            has = "no samples" if found is None else f"samples at {found.rate} Hz"
            raise ValueError(
                f"The shards have {has}, but the {stage.name} stage needs a multiple of {rate} Hz. "
                "Make them with recipes/tokenize_dataset.py --codec none --samples RATE."
            )
        from_rate = int(found.rate)
        self._lower: Waveforms | None = None
        self._level: str | None = None
        if stage.source is not None:
            signal = stage.conditioners[stage.source.condition]
            assert isinstance(signal, AlignedSignal)
            lower = window * signal.ratio
            self._lower = Waveforms(
                from_rate=from_rate,
                to_rate=int(rate * signal.ratio),
                length=-(-lower.numerator // lower.denominator),
            )
            self._level = next(
                name
                for name in stage.conditioners.fuse
                if isinstance(stage.conditioners[name], LevelConditioner)
            )
        super().__init__(
            stage,
            shards,
            latents=Waveforms(from_rate=from_rate, to_rate=rate, length=window),
            stream=SAMPLES,
            hop_length=from_rate // rate,
            frames=batch_size * window,
            seed=seed,
            dropout=dropout,
        )

    def source_tokens(self, crop: Crop) -> Tensor | None:
        """A crop at the lower rate: [1, T]."""
        assert self._lower is not None
        return self._lower(self._values(crop))

    def _check_source(self, stage: DiffusionStage, shards: Shards) -> None:
        pass  # it is made of the samples

    def _crops(self, lengths: np.ndarray, frames: int) -> Batches:
        window = self.stage.window_frames
        whole = np.where(lengths > 0, np.maximum(lengths, window), 0)
        return Batches(whole, longest=window, frames=frames, seed=self.seed)

    def _conditions(self, crops: Sequence[Crop], number: int) -> dict[str, list[Any | None]]:
        values = super()._conditions(crops, number)
        if self._level is None:
            return values
        source, level = self.stage.source, self.stage.conditioners[self._level]
        assert source is not None
        assert isinstance(level, LevelConditioner)
        random = np.random.default_rng([self.seed, number, 4])
        levels = random.uniform(0, level.most, len(crops)).tolist()
        values[source.condition] = [
            augmented(lower, _noise(random, lower), amount)
            for lower, amount in zip(values[source.condition], levels, strict=True)
            if lower is not None
        ]
        return values | {self._level: levels}


def _noise(random: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(random.standard_normal(tuple(like.shape), dtype=np.float32))
