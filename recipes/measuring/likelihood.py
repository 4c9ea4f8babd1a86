"""Likelihoods of sequences, and pairs in which a model should prefer one.

In sWUGGY the preferred one is the real word, in sBLIMP the grammatical sentence (Zero Resource
Speech Challenge 2021, arXiv 2011.11588; AudioLM, arXiv 2209.03143, table IV).

Shapes: K codebooks, T frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.semantic.frames import deduplicate
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Track


@dataclass(frozen=True, kw_only=True)
class LogLikelihood:
    """The log-likelihood of a sequence, in nats, and its number of tokens."""

    total: float
    num_tokens: int

    @property
    def per_token(self) -> float:
        return self.total / self.num_tokens


def log_likelihood(
    stage: LMStage, tokens: Tensor, *, conditions: Mapping[str, Any] | None = None
) -> LogLikelihood:
    """The log-likelihood of all tokens [K, T] under a stage, summed window by window.

    Repeats are removed for a stage over de-duplicated tokens, as in its training data.

    Args:
        conditions: by name.
    """
    tokens = tokens if not stage.deduplicated else deduplicate(tokens[0])[0][None]
    K, T = tokens.shape
    if T == 0:
        raise ValueError("Got no tokens; expected at least one frame.")
    track = Track(values=tokens, seed=0, sampling=stage.sampling, conditions=conditions or {})
    total, first = 0.0, 0
    while first < T:
        last = min(
            T,
            stage.window_frames
            if first == 0
            else first + stage.window_frames - stage.overlap_frames,
        )
        total += stage.likelihood(track, first, last) * K * (last - first)
        first = last
    return LogLikelihood(total=total, num_tokens=K * T)


def pair_wins(
    preferred: Sequence[LogLikelihood],
    others: Sequence[LogLikelihood],
    *,
    per_token: bool = True,
) -> Tensor:
    """1 for each pair whose first is likelier, 1/2 for a tie, else 0; the mean is the accuracy.

    Args:
        per_token: compare means over tokens; AudioLM reports sBLIMP in both ways.
    """
    if len(preferred) != len(others) or not preferred:
        raise ValueError(
            f"Got {len(preferred)} preferred and {len(others)} other sequences; expected pairs."
        )
    scores = [
        torch.tensor([x.per_token if per_token else x.total for x in side], dtype=torch.float64)
        for side in (preferred, others)
    ]
    return 0.5 + 0.5 * (scores[0] - scores[1]).sign()
