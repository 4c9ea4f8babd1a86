"""Masks of training examples, as the rounds of a masked stage meet them.

The model learns to predict one codebook at a time: those before it are known, those after it are
masked, and of the codebook itself a random share. Part of the frames is known in all codebooks,
like the prompt of a continuation, or both sides of an inpainted span.

Shapes: K codebooks, T frames.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lm_audio.sampling import MaskSchedule

_WHOLE, _CONTINUED = 0.4, 0.4  # shares of examples without known frames, and with a prompt
_LEAST_UNKNOWN = 0.1  # of the frames


@dataclass(frozen=True, kw_only=True, eq=False)
class Masked:
    """Tokens [K, T] of an example.

    Args:
        hidden: [K, T], masked tokens.
        judged: [K, T], those among them that are predicted, all of one codebook.
    """

    tokens: Tensor
    codebook: int
    hidden: Tensor
    judged: Tensor

    def inputs(self, mask_token: int) -> Tensor:
        return self.tokens.masked_fill(self.hidden, mask_token)

    def targets(self, ignored: int) -> Tensor:
        return self.tokens.masked_fill(~self.judged, ignored)


def mask(
    tokens: Tensor,
    *,
    codebook: int,
    span: int,
    schedule: MaskSchedule,
    random: np.random.Generator,
) -> Masked:
    """Masks some tokens [K, T] of a codebook, in spans, and all of the codebooks after it."""
    K, T = tokens.shape
    unknown = _unknown(T, random)
    progress = random.random()
    share = 1 - progress if schedule == "linear" else math.cos(progress * math.pi / 2)
    num_spans = -(-T // span)
    order = torch.from_numpy(random.permutation(num_spans))
    span_of = torch.arange(T) // span
    open_spans = torch.unique(span_of[unknown])
    order = order[torch.isin(order, open_spans)]
    chosen = order[: max(1, int(share * len(order)))]
    hidden = unknown.expand(K, T).clone()
    hidden[:codebook] = False
    hidden[codebook] &= torch.isin(span_of, chosen)
    judged = torch.zeros_like(hidden)
    judged[codebook] = hidden[codebook]
    return Masked(tokens=tokens, codebook=codebook, hidden=hidden, judged=judged)


def _unknown(num_frames: int, random: np.random.Generator) -> Tensor:
    """The frames [T] that are not known: all of them, the end, or a span in the middle."""
    unknown = torch.ones(num_frames, dtype=torch.bool)
    kind = random.random()
    if kind < _WHOLE:
        return unknown
    count = max(1, round(num_frames * random.uniform(_LEAST_UNKNOWN, 1)))
    first = num_frames - count
    if kind >= _WHOLE + _CONTINUED:
        first = int(random.integers(first + 1))
    unknown[:first] = False
    unknown[first + count :] = False
    return unknown
