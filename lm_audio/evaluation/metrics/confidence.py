"""Bootstrap confidence intervals: items are resampled with replacement (Efron, 1979)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def mean(items: Values) -> Values:
    """The means [R] of draws [R, n]."""
    return items.mean(axis=1)


def ratio(items: Values) -> Values:
    """The sums of the first column over those of the second [R], of draws [R, n, 2]."""
    sums = items.sum(axis=1)
    return sums[:, 0] / sums[:, 1]


def bootstrap_interval(
    items: Values,
    statistic: Callable[[Values], Values] = mean,
    *,
    level: float = 0.95,
    num_draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic over items [n, ...]; None for fewer than two.

    Equal to `scipy.stats.bootstrap(..., method="percentile")` up to the random draws.
    """
    n = len(items)
    if n < 2:
        return None
    draws = np.random.default_rng(seed).integers(n, size=(num_draws, n))
    values = statistic(items[draws])
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
