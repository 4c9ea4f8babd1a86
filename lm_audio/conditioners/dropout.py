"""Condition dropout: trains a model to work without some or all conditions.

Guidance needs joint dropout (arXiv 2207.12598); partial prompts and a scale per condition need
dropout per condition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def drop(
    values: Mapping[str, Sequence[Any | None]],
    probabilities: Mapping[str, float],
    *,
    joint: float = 0.0,
    generator: torch.Generator,
) -> dict[str, list[Any | None]]:
    """Replaces values by None in each row independently, reproducibly for a generator state.

    Args:
        values: B values of each name.
        probabilities: of dropping the value of a name; 0 for missing names.
        joint: probability of dropping all values of a row.
    """
    if unknown := probabilities.keys() - values.keys():
        raise ValueError(
            f"Unknown condition {min(unknown)!r} to drop. Choose from: {', '.join(values)}."
        )
    for probability in (joint, *probabilities.values()):
        if not 0 <= probability <= 1:
            raise ValueError(f"Dropout probabilities must be between 0 and 1, got {probability}.")
    B = max((len(given) for given in values.values()), default=0)
    thresholds = torch.tensor([joint, *(probabilities.get(name, 0.0) for name in values)])
    draws = torch.rand(B, len(thresholds), generator=generator, device=generator.device)
    dropped = (draws.cpu() < thresholds).tolist()  # [B][1 + names]
    return {
        name: [
            None if row[0] or row[i] else value for value, row in zip(given, dropped, strict=True)
        ]
        for i, (name, given) in enumerate(values.items(), start=1)
    }
