"""Changes of latents that a user writes: 0:+1.5,3:*0.5 adds to one dimension and scales another.

A change may move: 0:+0@2,0:+1.5@4 rises from the second second to the fourth.

Shapes: B batch, D latent dimensions, T frames.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_NUMBER = r"[0-9]+\.?[0-9]*|\.[0-9]+"
_EDIT = re.compile(rf"\s*([0-9]+)\s*:\s*([+*=-])\s*(-?(?:{_NUMBER}))\s*(?:@\s*({_NUMBER}))?\s*")


@dataclass(frozen=True, kw_only=True)
class LatentEdit:
    """One change of one dimension.

    operation: "+", "*" or "="; points: values by their time in seconds, interpolated linearly.
    """

    dimension: int
    operation: str
    points: tuple[tuple[float, float], ...]


class LatentEdits:
    """Applies changes to the frames of a stream."""

    def __init__(self, edits: list[LatentEdit], *, frame_rate: float, latent_size: int) -> None:
        for edit in edits:
            if edit.dimension >= latent_size:
                raise ValueError(
                    f"There is no latent dimension {edit.dimension}; this codec has 0 to "
                    f"{latent_size - 1}."
                )
        self._edits, self._frame_rate = edits, frame_rate

    def __call__(self, latents: Tensor, first: int) -> Tensor:
        """Changed latents [B, D, T], given the number of the first frame."""
        changed = latents.clone()
        seconds = (first + np.arange(latents.shape[2])) / self._frame_rate
        for edit in self._edits:
            times, values = zip(*edit.points, strict=True)
            value = torch.from_numpy(np.interp(seconds, times, values)).to(changed)
            row = changed[:, edit.dimension]
            if edit.operation == "+":
                row += value
            elif edit.operation == "*":
                row *= value
            else:
                row[:] = value
        return changed


def parse_edits(text: str) -> list[LatentEdit]:
    """Reads changes such as 0:+1.5,3:*0.5,5:=0@1; raises ValueError for others."""
    found: dict[tuple[int, str], dict[float, float]] = {}
    for part in text.split(","):
        match = _EDIT.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part.strip()!r} is not a change of a latent. Write DIMENSION:+NUMBER, "
                "DIMENSION:*NUMBER or DIMENSION:=NUMBER, then @SECONDS if it changes over time."
            )
        dimension, sign, number, seconds = match.groups()
        value = -float(number) if sign == "-" else float(number)
        points = found.setdefault((int(dimension), "+" if sign == "-" else sign), {})
        time = float(seconds or 0)
        if time in points:
            raise ValueError(f"Got two values for {dimension}:{sign} at {time:g} s.")
        points[time] = value
    return [
        LatentEdit(dimension=dimension, operation=operation, points=tuple(sorted(points.items())))
        for (dimension, operation), points in found.items()
    ]
