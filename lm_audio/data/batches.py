"""Random crops in batches; batch n is a pure function of n and the seed.

So an interrupted run resumes with the same batches, and any number of processes can split them,
without any random state to save.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POOL_BATCHES = 50  # crops of similar length are grouped within this many batches


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Frames start:stop of an example."""

    index: int
    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


class Batches(Sequence[list[Crop]]):
    """Endless batches of random crops, each example once per epoch.

    Crops of similar length are batched together, as many as fit including padding.

    Args:
        lengths: frames of each example; empty ones are skipped.
        longest: the maximum frames per crop.
        frames: the maximum frames per batch, including padding.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, *, longest: int, frames: int, seed: int
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._longest, self._frames, self._seed = longest, frames, seed
        self._ends: list[int] = []  # the batch after the last one of each epoch
        if not (self._lengths > 0).any():
            raise ValueError("All examples are empty. Expected some with frames.")
        most = min(longest, int(self._lengths.max()))
        if frames < most:
            raise ValueError(
                f"A crop of {most} frames exceeds a batch of {frames}. Use larger batches or "
                "shorter crops."
            )
        self._kept: dict[int, list[list[Crop]]] = {}  # the last two epochs used

    def __len__(self) -> int:
        """The number of batches of the first epoch; other epochs may differ slightly."""
        return len(self._epoch(0))

    def __getitem__(self, number: int) -> list[Crop]:  # type: ignore[override]  # no slices
        while not self._ends or self._ends[-1] <= number:
            before = self._ends[-1] if self._ends else 0
            self._ends.append(before + len(self._epoch(len(self._ends))))
        epoch = bisect_right(self._ends, number)
        return self._epoch(epoch)[number - (self._ends[epoch - 1] if epoch else 0)]

    def _epoch(self, epoch: int) -> list[list[Crop]]:
        if epoch not in self._kept:
            if len(self._kept) == 2:
                del self._kept[next(iter(self._kept))]
            self._kept[epoch] = self._make_epoch(epoch)
        return self._kept[epoch]

    def _make_epoch(self, epoch: int) -> list[list[Crop]]:
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(np.flatnonzero(self._lengths))
        crops = np.minimum(self._lengths[order], self._longest)
        starts = random.integers(self._lengths[order] - crops + 1)
        pool = max(1, round(POOL_BATCHES * self._frames / crops.mean()))
        batches: list[list[Crop]] = []
        for first in range(0, len(order), pool):
            by_length = first + np.argsort(-crops[first : first + pool], kind="stable")
            batch: list[Crop] = []
            for i in by_length.tolist():
                if batch and batch[0].length * (len(batch) + 1) > self._frames:
                    batches.append(batch)
                    batch = []
                start, length = int(starts[i]), int(crops[i])
                batch.append(Crop(index=int(order[i]), start=start, stop=start + length))
            batches.append(batch)
        return [batches[i] for i in random.permutation(len(batches))]


def seed_of(seed: int, number: int) -> int:
    """The random seed of batch `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
