"""A stage without a model: its values are a sound that the user gives.

It is the first of models that only raise the sample rate of sound.
"""

from dataclasses import dataclass

import torch

from lm_audio.generation.track import Source, StageBatch, Track
from lm_audio.signals import Signal


@dataclass(frozen=True, kw_only=True, eq=False)
class SoundStage:
    """Takes the place of a generator of waveforms."""

    name: str
    makes: Signal
    source: Source | None = None
    sampling: None = None
    window_frames: int = 1
    deduplicated: bool = False
    may_end: bool = False
    two_sided: bool = True
    first_codebook: int = 0
    conditions: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:  # noqa: ARG002
        return _NoBatch()

    def check(self, track: Track) -> None:
        """Raises ValueError unless all values are known."""
        if not track.done:
            raise ValueError(
                "This model has no generator: it raises the sample rate of sound. Use upsample, or "
                "a model that generates (lm-audio models)."
            )


class _NoBatch:
    """Has nothing to do."""

    def add(self, track: Track) -> None:
        assert track.done

    def remove(self, track: Track) -> None:
        pass

    def waiting(self) -> bool:
        return False

    def step(self) -> bool:
        return False
