"""Stages at work together: a later one goes on as soon as the earlier one is far enough ahead."""

from collections.abc import Sequence

from lm_audio.generation.track import AnyStage, Run


class Cascade:
    """The runs of many items in all stages of a pipeline.

    The order of work is free: random numbers belong to the item and the stage. What is nearest to
    sound goes first, and earlier stages work for those that wait, so that sound comes early and no
    item stands still because of others.

    Args:
        rows_per_pass: how many rows go through a model at once; all by default.
    """

    def __init__(self, stages: Sequence[AnyStage], *, rows_per_pass: int | None = None) -> None:
        self._batches = [stage.new_batch(rows_per_pass=rows_per_pass) for stage in stages]

    def add(self, runs: Sequence[Run]) -> None:
        """Takes in an item: a run for each stage."""
        for batch, run in zip(self._batches, runs, strict=True):
            batch.add(run)

    def remove(self, runs: Sequence[Run]) -> None:
        """Gives up an item, done or not."""
        for batch, run in zip(self._batches, runs, strict=True):
            batch.remove(run)

    def step(self) -> bool:
        """Takes a step in the last stage, and in those before it for what waits for them.

        Returns False if there is nothing left to do.
        """
        stepped = False
        for batch in reversed(self._batches):
            stepped = batch.step() or stepped
            if stepped and not batch.waiting():
                break
        return stepped
