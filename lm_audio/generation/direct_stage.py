"""A stage that computes all its values at once, from the conditions alone.

Shapes: D width, L vectors, N samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.track import Source, StageBatch, Track
from lm_audio.networks.condition import Fused
from lm_audio.signals import Signal


class VectorEncoder(Protocol):
    """Turns sound into the vectors of a stage."""

    @property
    def sample_rate(self) -> int: ...

    def encode(self, samples: Tensor) -> Tensor:
        """The vectors [D, L] of mono samples [1, N]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectStage:
    """A function of the conditions, such as a translation of text to an audio embedding.

    Args:
        network: maps conditions, B = 1, to vectors [D, L].
        makes: vectors, which describe a whole item.
        encoder: makes them from sound, for users who give it in their place; None without one.
    """

    name: str
    network: Callable[[Fused], Tensor]
    conditioners: Conditioners
    makes: Signal
    encoder: VectorEncoder | None = None
    source: Source | None = None
    sampling: None = None
    window_frames: int = 1
    deduplicated: bool = False
    may_end: bool = False
    two_sided: bool = True
    first_codebook: int = 0

    def __post_init__(self) -> None:
        if self.makes.kind != "vector":
            raise ValueError(f"The {self.name} stage must make vectors, got {self.makes}.")

    @property
    def conditions(self) -> tuple[str, ...]:
        return tuple(self.conditioners.fuse)

    @property
    def device(self) -> torch.device:
        modules = [x for x in (self.network, self.conditioners) if isinstance(x, nn.Module)]
        tensors = [x for module in modules for x in (*module.parameters(), *module.buffers())]
        return tensors[0].device if tensors else torch.device("cpu")

    def new_batch(self, *, rows_per_pass: int | None = None) -> StageBatch:  # noqa: ARG002
        return DirectBatch(self)

    @torch.inference_mode()
    def check(self, track: Track) -> None:
        """Embeds the conditions; raises ValueError if one is invalid."""
        track.embed(self.conditioners)

    @torch.inference_mode()
    def values(self, track: Track) -> Tensor:
        """The vectors [D, L] of a track's conditions; of a blend, those between its prompts'."""
        shares = (1.0,) if track.blend is None else track.blend.shares
        first, *others = (
            share
            * self._made(
                {
                    name: track.condition(self.conditioners, name, dropped=False, part=part)
                    for name in self.conditioners.fuse
                }
            )
            for part, share in enumerate(shares)
        )
        return sum(others, start=first)

    @torch.inference_mode()
    def values_of(self, conditions: Mapping[str, Any]) -> Tensor:
        """The vectors [D, L] of conditions by name."""
        return self._made(
            {name: self.conditioners[name]([conditions.get(name)]) for name in self.conditioners}
        )

    def _made(self, embedded: Mapping[str, Any]) -> Tensor:
        return self.network(self.conditioners.fused(embedded)).float()


class DirectBatch:
    """Computes the values of one track per step."""

    def __init__(self, stage: DirectStage) -> None:
        self._stage = stage
        self._tracks: list[Track] = []

    def add(self, track: Track) -> None:
        if not track.done:
            self._tracks.append(track)

    def remove(self, track: Track) -> None:
        self._tracks = [one for one in self._tracks if one is not track]

    def waiting(self) -> bool:
        return False

    def step(self) -> bool:
        if not self._tracks:
            return False
        track = self._tracks.pop(0)
        values = self._stage.values(track)
        track.learn(values.to(track.values.device), start=0, num_done=track.num_frames)
        return True
