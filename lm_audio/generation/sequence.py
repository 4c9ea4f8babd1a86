"""What is to be decoded: one window of one item, as the pattern laid it out.

Shapes: J streams, S steps, V vocabulary, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lm_audio.conditioners.fuser import Fused


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One branch of guidance.

    Args:
        fused: the prompts of this branch, B = 1; its sum, if any, is the same for all steps.
        weights: [S], how much its logits count at each step.
        sums: gives what is added to the inputs of steps from `start` to `stop` instead of that sum,
            [1, stop - start, D]; asked for when the step is ready.
    """

    fused: Fused
    weights: Tensor
    sums: Callable[[int, int], Tensor] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """Steps of J streams, known ones and those to be sampled.

    Args:
        start: the token of the column before the first step.
        tokens: [J, S], int64; -1 is to be sampled.
        uniforms: [J, S], a random number for each token.
        temperature, allowed: [J, S] and [J, S, 2], lowest token and one past the highest.
        penalty_window: how many steps back the repetition penalty looks; 0 if it is 1.
        repeats: False forbids a token to follow itself.
    """

    start: int
    tokens: Tensor
    rows: tuple[Row, ...]
    uniforms: Tensor
    temperature: Tensor
    allowed: Tensor
    top_k: int
    top_p: float
    min_p: float
    penalty: float = 1.0
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
