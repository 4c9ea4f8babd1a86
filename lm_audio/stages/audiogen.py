"""AudioGen and MusicGen: text -> all codebooks in one stage (arXiv 2209.15352, 2306.05284)."""

from fractions import Fraction

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.models.token_lm import TokenLM
from lm_audio.patterns import Pattern
from lm_audio.sampling import Sampling
from lm_audio.stages.stage import Stage


def audiogen(
    model: TokenLM,
    *,
    pattern: Pattern,
    conditioners: Conditioners,
    frame_rate: Fraction,
    context: int,
    keep: int,
    sampling: Sampling,
) -> list[Stage]:
    """The only stage.

    Args:
        context, keep: the frames of a window, and those that the next window keeps.
    """
    return [
        Stage(
            name="acoustic",
            model=model.eval(),
            pattern=pattern,
            conditioners=conditioners.eval(),
            frame_rate=frame_rate,
            context=context,
            keep=keep,
            sampling=sampling,
            start_token=model.config.vocab_size,
        )
    ]
