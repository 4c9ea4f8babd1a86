"""Duet: text -> semantic tokens -> acoustic tokens, with guidance in both stages.

The acoustic stage gets the text by cross-attention, and semantic tokens added to its frames with a
short look-ahead. It can therefore follow the semantic stage closely, and audio starts early.

Shapes: D width.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from torch import nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Source
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import Pattern, delayed, parallel, stereo
from lm_audio.sampling import Sampling

CONTEXT_SECONDS = 30
KEPT_SHARE = 3  # a third of a window is the start of the next one
LOOK_AHEAD = 2  # semantic tokens


def duet(
    *,
    semantic: TransformerConfig,
    acoustic: TransformerConfig,
    text: Callable[[int], nn.Module],
    num_semantic_tokens: int,
    semantic_rate: Fraction,
    num_codebooks: int,
    codebook_size: int,
    frame_rate: Fraction,
    num_channels: int = 1,
) -> list[LMStage]:
    """Both stages, with new weights.

    Args:
        semantic, acoustic: with cross-attention.
        text: builds the text conditioner for a given width.
        num_channels: 2 for stereo with two interleaved sets of codebooks.
    """
    pattern = delayed(range(num_codebooks))
    pattern = stereo(pattern) if num_channels == 2 else pattern
    semantic_stage = _stage(
        "semantic",
        TokenLMConfig(transformer=semantic, num_streams=1, vocab_size=num_semantic_tokens),
        pattern=parallel(1),
        conditioners=Conditioners({"text": text(semantic.dim)}, {"text": "cross"}),
        frame_rate=semantic_rate,
        token_kind="semantic",
    )
    aligned = AlignedTokens(
        num_semantic_tokens,
        acoustic.dim,
        look_ahead=LOOK_AHEAD,
        ratio=semantic_rate / frame_rate,
    )
    acoustic_stage = _stage(
        "acoustic",
        TokenLMConfig(
            transformer=acoustic, num_streams=pattern.num_streams, vocab_size=codebook_size
        ),
        pattern=pattern,
        conditioners=Conditioners(
            {"text": text(acoustic.dim), "semantic": aligned}, {"text": "cross", "semantic": "sum"}
        ),
        frame_rate=frame_rate,
        source=Source(stage="semantic", condition="semantic"),
    )
    return [semantic_stage, acoustic_stage]


def _stage(
    name: str,
    config: TokenLMConfig,
    *,
    pattern: Pattern,
    conditioners: Conditioners,
    frame_rate: Fraction,
    source: Source | None = None,
    token_kind: Literal["semantic", "acoustic"] = "acoustic",
) -> LMStage:
    context = int(CONTEXT_SECONDS * frame_rate)
    return LMStage(
        name=name,
        model=TokenLM(config).eval(),
        pattern=pattern,
        conditioners=conditioners.eval(),
        frame_rate=frame_rate,
        window_frames=context,
        overlap_frames=context // KEPT_SHARE,
        sampling=Sampling(),
        start_token=config.vocab_size,
        source=source,
        token_kind=token_kind,
    )
