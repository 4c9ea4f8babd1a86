"""The CLAP score: how close sound is to its caption in the space of a CLAP model.

Shapes: B clips, n windows, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def clap_scores(audio: Sequence[Tensor], texts: Tensor) -> Tensor:
    """The cosine of each clip's windows [n, D], averaged, and its text [B, D]: [B].

    Audiocraft's `CLAPTextConsistencyMetric` for clips of one window; scores of different CLAP
    checkpoints cannot be compared.
    """
    means = torch.stack([F.normalize(windows, dim=-1).mean(dim=0) for windows in audio])
    return F.cosine_similarity(means, texts, dim=-1)
