"""Label agreement: divergence and accuracy of a classifier, and nearest neighbours.

Shapes: B clips, n vectors, D width, V labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(generated: Tensor, real: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """The divergence of the labels [B, V] of generated clips from their real pairs: [B].

    KL(real || generated + epsilon), as audiocraft's `kl_divergence`, whose `kld` is its mean.
    AudioGen (arXiv 2209.15352) uses the labels of PaSST, softmax of 527 logits; other classifiers
    give other values.
    """
    return F.kl_div((generated + epsilon).log(), real, reduction="none").sum(dim=-1)


def label_accuracy(probabilities: Tensor, truth: Sequence[str], labels: Sequence[str]) -> Tensor:
    """1 where the likeliest label is the true one, else 0: [B], for probabilities [B, V]."""
    unknown = sorted(set(truth) - set(labels))
    if unknown:
        raise ValueError(
            f"Unknown label '{unknown[0]}'. Use the classifier's {len(labels)} labels, such as "
            f"'{labels[0]}'."
        )
    right = torch.tensor([list(labels).index(label) for label in truth])
    return (probabilities.argmax(dim=-1) == right).float()


def nearest_labels(
    vectors: Tensor,
    known: Tensor,
    known_labels: Sequence[str],
    *,
    k: int = 5,
    own: Tensor | None = None,
) -> list[str]:
    """The most common label of the k nearest known vectors [m, D] by cosine, for vectors [n, D].

    Ties go to the first label in order, as in scikit-learn's
    `KNeighborsClassifier(k, metric="cosine")`.

    Args:
        own: [n, m], True for known vectors that a vector was made from: they are excluded.
    """
    closeness = F.normalize(vectors.double(), dim=-1) @ F.normalize(known.double(), dim=-1).T
    if own is not None:
        closeness = closeness.masked_fill(own, -torch.inf)
    nearest = closeness.topk(min(k, len(known)), dim=-1)
    names = np.array(known_labels)
    answers = []
    for row, near in zip(nearest.indices, nearest.values, strict=True):
        found, counts = np.unique(names[row[near.isfinite()].numpy()], return_counts=True)
        answers.append(str(found[counts.argmax()]))
    return answers
