"""The Frechet distance between two sets of vectors, modelled as Gaussians.

For audio embeddings it is the Frechet audio distance (arXiv 1812.08466). It depends on the
embedding, its windows and the number of clips: values are comparable only if all are the same.

Shapes: n vectors, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The mean [D] and the unbiased covariance [D, D] of vectors, float64."""

    mean: Tensor
    covariance: Tensor


def moments(vectors: Tensor) -> Moments:
    """The moments of vectors [n, D]."""
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(
            f"Expected vectors [n, D] with n >= 2, got {list(vectors.shape)}. Use more or longer "
            "clips."
        )
    vectors = vectors.double()
    return Moments(mean=vectors.mean(dim=0), covariance=torch.atleast_2d(torch.cov(vectors.T)))


def gaussian_distance(first: Moments, second: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which
    is symmetric: no complex numbers, and no offset on singular covariances.
    """
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ second.covariance @ root)
    overlap = product.clamp(min=0).sqrt().sum()
    traces = first.covariance.trace() + second.covariance.trace()
    distance = (first.mean - second.mean).square().sum() + traces - 2 * overlap
    return max(0.0, float(distance))


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The distance between vectors [n, D] and [m, D].

    Equal to the formula of pytorch-fid, fadtk and audiocraft (scipy.linalg.sqrtm) where that is
    exact.
    """
    return gaussian_distance(moments(first), moments(second))
