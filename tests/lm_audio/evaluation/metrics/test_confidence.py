"""Bootstrap intervals against scipy's."""

import numpy as np
import pytest
import scipy.stats

from lm_audio.evaluation.metrics.confidence import bootstrap_interval, ratio


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    items = np.random.default_rng(0).exponential(size=80)
    got = bootstrap_interval(items, num_draws=4000)
    expected = scipy.stats.bootstrap(
        (items,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert got == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_interval_of_a_ratio_holds_the_ratio() -> None:
    items = np.stack([np.arange(20) % 3, np.full(20, 5.0)], axis=1)
    low, high = bootstrap_interval(items, ratio) or (0, 0)
    assert low < items[:, 0].sum() / 100 < high


def test_one_item_has_no_interval() -> None:
    assert bootstrap_interval(np.ones(1)) is None
