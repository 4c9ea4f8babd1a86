"""Interpolation between two noisy signals.

Shapes: D width, T frames.
"""

import math

from torch import Tensor

_SMALLEST_ANGLE = 1e-4  # below, the arc is a straight line


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """The point at this share of the arc from [D, T] to [D, T], taken as single vectors.

    A straight line would lower the power of two independent noises halfway.
    """
    dot = (first.double() * second.double()).sum()
    norms = first.double().norm() * second.double().norm()
    angle = math.acos(max(-1.0, min(1.0, float(dot / norms)))) if norms > 0 else 0.0
    if min(angle, math.pi - angle) < _SMALLEST_ANGLE:
        return first + share * (second - first)
    whole = math.sin(angle)
    return first * (math.sin((1 - share) * angle) / whole) + second * (
        math.sin(share * angle) / whole
    )
