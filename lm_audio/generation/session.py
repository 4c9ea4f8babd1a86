"""Sessions: clips that are generated together and join or leave the batches at any step.

Shapes: C channels, N samples.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from lm_audio.generation.clip_job import ClipJob
from lm_audio.generation.track import Stage

MOST_AT_ONCE = 32  # clips; more of them are queued


class Session:
    """The running batches of a pipeline's stages; each clip gets the same values as alone.

    The stages can run in any order, because random numbers belong to the item and the stage. Later
    stages run first, and earlier stages run when a later one needs input, so that audio comes early
    and no item stalls because of others.

    Args:
        stages: the stages that every clip of the session needs.
        rows_per_pass: rows per forward pass; all by default.
    """

    def __init__(self, stages: Sequence[Stage], *, rows_per_pass: int | None = None) -> None:
        if rows_per_pass is not None and not (isinstance(rows_per_pass, int) and rows_per_pass > 0):
            raise ValueError(
                f"rows_per_pass must be an integer of at least 1, or None, got {rows_per_pass!r}."
            )
        self._batches = [stage.new_batch(rows_per_pass=rows_per_pass) for stage in stages]
        self._jobs: list[ClipJob] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: ClipJob) -> None:
        for batch, track in zip(self._batches, job.tracks.values(), strict=True):
            batch.add(track)
        self._jobs.append(job)

    def remove(self, job: ClipJob) -> None:
        """Removes a clip, finished or not."""
        self._jobs.remove(job)
        for batch, track in zip(self._batches, job.tracks.values(), strict=True):
            batch.remove(track)

    def step(self) -> list[tuple[ClipJob, Tensor]]:
        """Takes one step; returns each clip's newly final samples [C, N >= 0].

        Finished clips leave the session.
        """
        stepped = False
        for batch in reversed(self._batches):
            stepped = batch.step() or stepped
            if stepped and not batch.waiting():
                break
        sound = [(job, job.sound()) for job in self._jobs]
        for job in [job for job in self._jobs if job.done]:
            self.remove(job)
        return sound

    def sound(
        self, jobs: Iterable[ClipJob], *, most_at_once: int = MOST_AT_ONCE
    ) -> Iterator[list[tuple[ClipJob, Tensor]]]:
        """Makes these clips and yields the result of each step; a finished clip admits the next."""
        coming = deque(jobs)
        while coming or self._jobs:
            while coming and len(self._jobs) < most_at_once:
                self.add(coming.popleft())
            yield self.step()
