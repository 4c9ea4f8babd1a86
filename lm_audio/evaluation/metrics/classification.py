"""Agreement of labels: divergence and accuracy of a classifier's labels, and nearest neighbours.

Shapes: B clips, n vectors, D width, V labels.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(generated: Tensor, real: Tensor, *, epsilon: float = 1e-6) -> Tensor:
    """How far the labels [B, V] of generated clips are from those of their real pairs: [B].

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
            f"The classifier has no label '{unknown[0]}'; name the clips by its {len(labels)} "
            f"labels, such as '{labels[0]}'."
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
    """The commonest label of the k nearest by cosine of known vectors [m, D], for vectors [n, D].

    Of labels that are equally common the first in order wins: scikit-learn's
    `KNeighborsClassifier(k, metric="cosine")`.

    Args:
        own: [n, m], True for known vectors that a vector was made from: they are no neighbours.
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
