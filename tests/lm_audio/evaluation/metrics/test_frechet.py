"""The Frechet distance against closed forms and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg
import torch

from lm_audio.evaluation.metrics.frechet import (
    Moments,
    frechet_distance,
    gaussian_distance,
    moments,
)


def test_gaussians_with_commuting_covariances_have_the_closed_form() -> None:
    means = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 0.5]]).double()
    scales = torch.tensor([[1.0, 4.0, 9.0], [4.0, 0.25, 0.0]]).double()
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    first, second = (
        Moments(mean=m, covariance=rotation.double() @ s.diag() @ rotation.double().T)
        for m, s in zip(means, scales, strict=True)
    )
    expected = (means[0] - means[1]).square().sum()
    expected += (scales[0].sqrt() - scales[1].sqrt()).square().sum()
    assert gaussian_distance(first, second) == pytest.approx(float(expected), rel=1e-6)


def test_vectors_give_what_the_formula_with_a_matrix_root_gives() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal((60, 8)) @ random.standard_normal((8, 8))
    second = random.standard_normal((50, 8)) @ random.standard_normal((8, 8)) + 0.3
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected += np.trace(covariances[0] + covariances[1] - 2 * root)
    got = frechet_distance(torch.from_numpy(first), torch.from_numpy(second))
    assert got == pytest.approx(expected, rel=1e-9)


def test_the_distance_of_vectors_to_themselves_is_zero_where_their_covariance_is_singular() -> None:
    vectors = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(vectors, vectors) == pytest.approx(0.0, abs=1e-4)
    shifted = frechet_distance(vectors, vectors + 1)
    assert shifted == pytest.approx(64.0, rel=1e-4)


def test_one_vector_has_no_covariance() -> None:
    with pytest.raises(ValueError, match=r"with n >= 2, got \[1, 4\]"):
        moments(torch.zeros(1, 4))
