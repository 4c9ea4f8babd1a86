"""A small judge of what kind of sound a clip is: a linear discriminant over log-mel statistics.

It needs a few hundred numbers and no network, and is right less often than a trained one.

Shapes: N samples, n clips, D statistics.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lm_audio.evaluation.judges.embedding import LogMelStatistics

EAR = LogMelStatistics()
SECONDS = 5
SHRINKAGE = 0.3  # of the covariance towards a sphere

Probe = Mapping[str, Tensor]
"""Of each label: the weights [D + 1] of its score, that of 1 last."""


def look(samples: Tensor) -> Tensor:
    """What a clip [1, N], at the rate of `EAR`, looks like at any level: [D + 1], 1 last."""
    first = samples[:, : SECONDS * EAR.sample_rate]
    statistics = EAR(first / first.abs().max().clamp(min=1e-4)).mean(dim=0)
    return torch.cat([statistics, torch.ones(1)])


def fit_probe(looks: Tensor, labels: Sequence[str]) -> Probe:
    """The discriminant of looks [n, D + 1], all classes equally likely and of one covariance."""
    statistics = looks[:, :-1].double()
    names = sorted(set(labels))
    own = torch.tensor([names.index(label) for label in labels])
    means = torch.stack([statistics[own == k].mean(dim=0) for k in range(len(names))])
    rest = statistics - means[own]
    spread = rest.T @ rest / len(rest)
    sphere = spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
    weights = means @ torch.linalg.inv((1 - SHRINKAGE) * spread + SHRINKAGE * sphere)
    constants = -0.5 * (weights * means).sum(dim=1, keepdim=True)
    rows = torch.cat([weights, constants], dim=1).float()
    return {name: row.contiguous() for name, row in zip(names, rows, strict=True)}


def heard_as(probe: Probe, samples: Tensor) -> str:
    """The likeliest label of a clip [1, N]."""
    seen = look(samples)
    return max(probe, key=lambda name: float(probe[name] @ seen))
