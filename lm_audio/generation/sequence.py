"""What is to be decoded: one window of one item, as the pattern laid it out.

Shapes: J streams, S steps, V vocabulary, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lm_audio.conditioners.tokens import NO_TOKEN, AlignedTokens
from lm_audio.networks.condition import Fused
from lm_audio.sampling import Sampling


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance.

    Args:
        fused: the prompts of this branch, B = 1; its sum, if any, is the same for all steps.
        weights: [S], how much its logits count at each step.
        aligned: adds tokens of an earlier stage to each step; the same in all rows of a batch.
        ahead: gives those that it adds to a step, [look-ahead + 1], asked when the step is ready;
            None where they are dropped.
    """

    fused: Fused
    weights: Tensor
    aligned: AlignedTokens | None = None
    ahead: Callable[[int], Tensor] | None = None

    def sums(self, start: int, stop: int) -> Tensor | None:
        """What is added to the inputs of these steps: [1, stop - start, D], or None."""
        if start == stop:
            return None
        sums = self.fused.sum
        if self.aligned is None:
            return None if sums is None else sums.expand(-1, stop - start, -1)
        ahead = torch.stack([self.tokens_ahead(step) for step in range(start, stop)])
        added = self.aligned.embed(ahead)[None]
        return added if sums is None else added + sums

    def tokens_ahead(self, step: int | None) -> Tensor:
        """The tokens that are added to a step, [look-ahead + 1]; none where there is no step."""
        assert self.aligned is not None
        if self.ahead is None or step is None:
            return torch.full((self.aligned.look_ahead + 1,), NO_TOKEN, device=self.weights.device)
        return self.ahead(step)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """Steps of J streams, known ones and those to be sampled.

    Args:
        start_token: in the column before the first step.
        tokens: [J, S], int64; -1 is to be sampled.
        uniforms: [J, S], a random number for each token.
        temperature, allowed: [J, S] and [J, S, 2], lowest token and one past the highest.
        sampling: all else by which tokens are picked.
        penalty_window: how many steps back the repetition penalty looks; 0 if it is 1.
        repeats: False forbids a token to follow itself.
    """

    start_token: int
    tokens: Tensor
    rows: tuple[Row, ...]
    uniforms: Tensor
    temperature: Tensor
    allowed: Tensor
    sampling: Sampling
    penalty_window: int = 0
    repeats: bool = True
    stop: int = field(init=False)

    def __post_init__(self) -> None:
        unknown = (self.tokens < 0).any(dim=0).nonzero()
        object.__setattr__(self, "stop", int(unknown[-1]) + 1 if len(unknown) else 0)

    @property
    def num_known(self) -> int:
        """How many steps at the start are known."""
        unknown = (self.tokens < 0).any(dim=0).nonzero()
        return int(unknown[0]) if len(unknown) else self.tokens.shape[1]
