"""Speaker identity: similarity of embeddings, and the nearest enrolled speaker.

AudioLM (arXiv 2209.03143, table III) trains a classifier to identify the speaker of a continuation;
here each class is the mean embedding of real clips of that speaker.

Shapes: n embeddings, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def speaker_similarity(first: Tensor, second: Tensor) -> Tensor:
    """The cosines of pairs of embeddings [n, D]: [n]."""
    return F.cosine_similarity(first.double(), second.double(), dim=-1)


def nearest_speakers(
    embeddings: Tensor,
    enrolled: Tensor,
    enrolled_speakers: Sequence[str],
    *,
    own: Sequence[int | None] | None = None,
) -> list[str]:
    """The speaker of the nearest centroid by cosine, for embeddings [n, D].

    Args:
        enrolled: embeddings [m, D] of real clips, normalised before averaging.
        own: for each embedding the real clip that it was made from, which is excluded from its
            centroid, unless it is the speaker's only clip.
    """
    names = sorted(set(enrolled_speakers))
    vectors = F.normalize(enrolled.double(), dim=-1)
    owner = torch.tensor([names.index(name) for name in enrolled_speakers])
    sums = torch.stack([vectors[owner == i].sum(dim=0) for i in range(len(names))])  # [names, D]
    counts = owner.bincount(minlength=len(names))
    answers = []
    for embedding, pair in zip(embeddings.double(), own or [None] * len(embeddings), strict=True):
        centroids = sums
        if pair is not None and counts[owner[pair]] > 1:
            centroids = sums.clone()
            centroids[owner[pair]] -= vectors[pair]
        closeness = F.normalize(centroids, dim=-1) @ F.normalize(embedding, dim=-1)
        answers.append(names[int(closeness.argmax())])
    return answers
