"""Interpolation between two noisy signals.

Shapes: D width, T frames.
"""

import math

import torch
from torch import Tensor

_SMALLEST_ANGLE = 1e-4  # below, the arc is a straight line
_PARALLEL = 0.9995  # the cosine beyond which the arc of a frame is one


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


def slerp_frames(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Noise on the arc from a to b, both [D, T], at a share [T] of its angle, frame by frame.

    A line would pass through noise of lower power.
    """
    cosine = (a * b).sum(dim=0) / (a.norm(dim=0) * b.norm(dim=0)).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos()
    near, far = (((1 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
    return torch.where(cosine.abs() > _PARALLEL, torch.lerp(a, b, share), near * a + far * b)
