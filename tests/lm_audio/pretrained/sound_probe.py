"""A small classifier of sounds: a linear discriminant over log-mel statistics.

It needs a few hundred numbers and no network, and is less accurate than a trained one.

Shapes: N samples, n clips, D statistics.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lm_audio.evaluation.judges.embedding import LogMelStatistics

EMBEDDING = LogMelStatistics()
SECONDS = 5
SHRINKAGE = 0.3  # of the covariance towards a sphere

Probe = Mapping[str, Tensor]
"""For each label, the weights [D + 1] of its score, the bias last."""


def features(samples: Tensor) -> Tensor:
    """Level-independent features [D + 1] of a clip [1, N] at the rate of `EMBEDDING`, 1 last."""
    first = samples[:, : SECONDS * EMBEDDING.sample_rate]
    statistics = EMBEDDING(first / first.abs().max().clamp(min=1e-4)).mean(dim=0)
    return torch.cat([statistics, torch.ones(1)])


def fit_probe(vectors: Tensor, labels: Sequence[str]) -> Probe:
    """The discriminant of features [n, D + 1], for equally likely classes with one covariance."""
    statistics = vectors[:, :-1].double()
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


def classify(probe: Probe, samples: Tensor) -> str:
    """The likeliest label of a clip [1, N]."""
    seen = features(samples)
    return max(probe, key=lambda name: float(probe[name] @ seen))
