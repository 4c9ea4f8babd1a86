"""Training batches of a diffusion stage: crops of latents with noise, levels and conditions.

Everything random is part of the batch, and batch n is always the same: a run resumes with the same
losses, on any number of processes and any device.

Shapes: B batch, K codebooks, D latent width, T frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.data.batches import Batches, Crop
from lm_audio.data.shards import Shards
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.signals import ACOUSTIC, SEMANTIC
from lm_audio.training.stage_batches import Dropout, given_conditions

NUM_BINS = 4
"""Losses are reported for as many bins of noise levels, the cleanest first."""


@dataclass(frozen=True, kw_only=True)
class KnownFrames:
    """How often training examples have known frames, by kind; the others have none.

    Args:
        before: a prompt at the start, for continuation.
        around: all but a span, for inpainting.
    """

    before: float = 0.25
    around: float = 0.1

    def __post_init__(self) -> None:
        if min(self.before, self.around) < 0 or self.before + self.around > 1:
            raise ValueError(
                "The shares of examples with known frames must be at least 0 and add up to at most "
                f"1, got {self.before} and {self.around}."
            )

    def mask(self, num_frames: int, random: np.random.Generator) -> Tensor:
        """The known frames [T] of an example; at least one frame is unknown."""
        kind, place, size = random.random(3)
        known = torch.zeros(num_frames, dtype=torch.bool)
        if kind < self.before:
            known[: int(size * num_frames)] = True
        elif kind < self.before + self.around:
            span = max(1, int(size * num_frames))
            start = int(place * (num_frames - span + 1))
            known[:start] = True
            known[start + span :] = True
        return known


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentBatch:
    """Latents, noise and levels of B crops.

    Args:
        latents, noise: [B, D, T].
        shares: [B], the place of each crop in the noise schedule, from 0 (signal) to 1 (noise).
        alpha, sigma, times: [B], the level at that place, and the network's input for it.
        mask: [B, T], False on padding.
        known: [B, T], the known frames, which have no loss.
        frames: [B, T], for conditions that are added frame by frame.
        conditions: B values of each condition.
    """

    latents: Tensor
    noise: Tensor
    shares: Tensor
    alpha: Tensor
    sigma: Tensor
    times: Tensor
    mask: Tensor
    known: Tensor
    frames: Tensor
    conditions: Mapping[str, Sequence[Any | None]]

    @property
    def judged(self) -> Tensor:
        """Whether each frame [B, T] has a loss."""
        return self.mask & ~self.known

    @property
    def bins(self) -> Tensor:
        """The bin [B] of each noise level."""
        return (self.shares * NUM_BINS).long()

    def counts(self, num_bins: int) -> Tensor:
        """The number of values with a loss in each bin: [num_bins], float32."""
        counts = torch.zeros(num_bins, device=self.mask.device)
        each = self.judged.sum(dim=1).float() * self.latents.shape[1]
        return counts.index_add(0, self.bins, each)

    def to(self, device: torch.device) -> "LatentBatch":
        """Moves the tensors of the network; conditioners move their own values."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)  # type: ignore[arg-type]


class LatentBatches(Sequence[LatentBatch]):
    """The endless batches of a stage; batch n is always the same (`lm_audio.data.batches`).

    Args:
        latents: turns values [K, T * hop_length] of the stream into the stage's latents [D, T].
        stream: acoustic tokens, or samples.
        hop_length: values of the stream per latent frame.
        frames: the maximum per batch, including padding.
        dropout: None for evaluation, which drops nothing and uses the first caption.
        known: None: no frames are known.
        logit_normal: draw more levels of medium noise, as is usual for flows; else uniform ones.
    """

    def __init__(
        self,
        stage: DiffusionStage,
        shards: Shards,
        *,
        latents: Callable[[Tensor], Tensor],
        stream: str = ACOUSTIC,
        hop_length: int = 1,
        frames: int,
        seed: int,
        dropout: Dropout | None,
        known: KnownFrames | None = None,
        logit_normal: bool = False,
    ) -> None:
        names = stage.conditioners.fuse
        if dropout is not None and (unknown := dropout.each.keys() - names.keys()):
            raise ValueError(
                f"Unknown condition {min(unknown)!r} to drop. The {stage.name} stage has: "
                f"{', '.join(names) or 'none'}."
            )
        self._check_source(stage, shards)
        if known is not None and not stage.sees_known:
            raise ValueError(f"The network of the {stage.name} stage does not see known frames.")
        self.stage, self.shards, self.latents = stage, shards, latents
        self.seed, self.dropout, self.known = seed, dropout, known
        self.logit_normal = logit_normal
        self.stream, self.hop_length = stream, hop_length
        self.lengths = lengths = shards.lengths(stream) // hop_length
        most = min(stage.window_frames, int(lengths.max(initial=0)))
        if frames < most:
            raise ValueError(
                f"A crop of {most} frames exceeds a batch of {frames}. Use at least {most} "
                "(--frames-per-batch), or a shorter context."
            )
        self.crops = self._crops(lengths, frames)

    def _check_source(self, stage: DiffusionStage, shards: Shards) -> None:
        """Raises ValueError if the shards lack what the stage follows."""
        if stage.source is not None and SEMANTIC not in shards.streams:
            raise ValueError(
                f"The {stage.name} stage follows semantic tokens, but the shards have none. Make "
                "them with recipes/tokenize_dataset.py --semantic."
            )

    def _crops(self, lengths: np.ndarray, frames: int) -> Batches:
        return Batches(lengths, longest=self.stage.window_frames, frames=frames, seed=self.seed)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, number: int) -> LatentBatch:  # type: ignore[override]  # no slices
        crops = self.crops[number]
        random = np.random.default_rng([self.seed, number, 3])
        made = [self.latents(self._values(crop)) for crop in crops]
        lengths = [values.shape[1] for values in made]
        T = max(lengths)
        latents = torch.stack([F.pad(values, (0, T - values.shape[1])) for values in made])
        known = [self._known(length, random) for length in lengths]
        shares = self._shares(len(crops), random)
        alpha, sigma, times = (
            torch.from_numpy(each).float() for each in self.stage.schedule.at(shares)
        )
        noise = torch.from_numpy(random.standard_normal(latents.shape, dtype=np.float32))
        frames = [
            self._behind(crop) + torch.arange(length)
            for crop, length in zip(crops, lengths, strict=True)
        ]
        return LatentBatch(
            latents=latents,
            noise=noise,
            shares=torch.from_numpy(shares),
            alpha=alpha,
            sigma=sigma,
            times=times,
            mask=torch.arange(T) < torch.tensor(lengths)[:, None],
            known=pad_sequence(known, batch_first=True),
            frames=pad_sequence(frames, batch_first=True),
            conditions=self._conditions(crops, number),
        )

    def _values(self, crop: Crop) -> Tensor:
        span = crop.start * self.hop_length, crop.stop * self.hop_length
        return self.shards.read(crop.index, self.stream, *span).long()

    def _known(self, num_frames: int, random: np.random.Generator) -> Tensor:
        if self.known is None:
            return torch.zeros(num_frames, dtype=torch.bool)
        return self.known.mask(num_frames, random)

    def _shares(self, count: int, random: np.random.Generator) -> np.ndarray:
        """B places in the schedule, one in each of B equal parts: less noise in the loss."""
        even = (np.arange(count) + random.random(count)) / count
        even = random.permutation(even)
        if self.logit_normal:
            normal = torch.special.ndtri(torch.from_numpy(even)).numpy()
            even = 1 / (1 + np.exp(-normal))
        return np.clip(even, 1e-4, 1 - 1e-4)

    def _conditions(self, crops: Sequence[Crop], number: int) -> dict[str, list[Any | None]]:
        return given_conditions(
            self.shards,
            crops,
            self.stage,
            source_tokens=self.source_tokens,
            dropout=self.dropout,
            seed=self.seed,
            number=number,
        )

    def source_tokens(self, crop: Crop) -> Tensor | None:
        """What a crop follows: semantic tokens [1, T], from its origin on; None if it has none."""
        aligned = self._aligned
        assert aligned is not None
        first, last = (crop.start - self._behind(crop)) * aligned.ratio // 1, crop.stop
        stop = -(-last * aligned.ratio // 1) + aligned.look_ahead
        tokens = self.shards.read(crop.index, SEMANTIC, int(first), int(stop)).long()
        return tokens if tokens.numel() else None

    def _behind(self, crop: Crop) -> int:
        """The number of frames from the start of the last aligned token to the crop."""
        aligned = self._aligned
        return 0 if aligned is None else crop.start % aligned.ratio.denominator

    @property
    def _aligned(self) -> AlignedTokens | None:
        source = self.stage.source
        conditioner = None if source is None else self.stage.conditioners[source.condition]
        return conditioner if isinstance(conditioner, AlignedTokens) else None
