"""Which part of which example goes into which batch: batch n is the same whoever asks, and when.

So a run that was killed goes on with the batches it would have had, and two processes share the
batches that one would take in turn. Nothing is drawn from a state that would have to be kept.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POOL_BATCHES = 50  # crops of like length are found among about so many batches


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
    """Endless batches of random crops, all examples once in each epoch.

    Crops of like length go together, as many as fit when all are as long as the longest.

    Args:
        lengths: frames of each example; those without any are left out.
        longest: the most frames of a crop.
        frames: the most in a batch, counting padding.
    """

    def __init__(
        self, lengths: Sequence[int] | np.ndarray, *, longest: int, frames: int, seed: int
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._longest, self._frames, self._seed = longest, frames, seed
        self._ends: list[int] = []  # the batch after the last one of each epoch
        if not (self._lengths > 0).any():
            raise ValueError("All examples are empty; give some that have frames.")
        most = min(longest, int(self._lengths.max()))
        if frames < most:
            raise ValueError(
                f"A batch of {frames} frames holds no crop of {most}; "
                "make the batch larger or the crops shorter."
            )
        self._kept: dict[int, list[list[Crop]]] = {}  # the last two epochs that were asked for

    def __len__(self) -> int:
        """The batches of the first epoch; others may have a few more or less."""
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
    """The seed of all that is drawn for batch `number`."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
