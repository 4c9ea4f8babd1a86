"""Clips in the making together, which join and leave at any step.

Shapes: C channels, N samples.
"""

from collections.abc import Sequence

from torch import Tensor

from lm_audio.generation.cascade import Cascade
from lm_audio.generation.clip_job import Making
from lm_audio.generation.track import AnyStage


class Session:
    """The running batch of a pipeline; each clip gets the tokens that it gets alone.

    Args:
        stages: those that every clip of the session needs.
        rows_per_pass: how many rows go through a model at once; all by default.
    """

    def __init__(self, stages: Sequence[AnyStage], *, rows_per_pass: int | None = None) -> None:
        self._cascade = Cascade(stages, rows_per_pass=rows_per_pass)
        self._makings: list[Making] = []

    def __len__(self) -> int:
        return len(self._makings)

    def add(self, making: Making) -> None:
        self._cascade.add(list(making.runs.values()))
        self._makings.append(making)

    def remove(self, making: Making) -> None:
        """Gives up a clip."""
        self._makings.remove(making)
        self._cascade.remove(list(making.runs.values()))

    def step(self) -> list[tuple[Making, Tensor]]:
        """Takes a step; the sound [C, N >= 0] of each clip that became final by it.

        Clips that are done have left.
        """
        self._cascade.step()
        sound = [(making, making.sound()) for making in self._makings]
        for making in [making for making in self._makings if making.done]:
            self.remove(making)
        return sound
