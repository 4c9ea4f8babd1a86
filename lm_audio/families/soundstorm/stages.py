"""SoundStorm: semantic tokens -> all acoustic tokens, in parallel rounds (arXiv 2305.09636).

The stage takes the place of Duet's acoustic stage, or of AudioLM's coarse and fine stages. Semantic
tokens at equal distances are added to the frames; deduplicated ones, which have no fixed duration,
precede the window as a prefix. The paper's network is a conformer, this one a plain transformer.

Shapes: D width.
"""

from collections.abc import Callable
from fractions import Fraction

from torch import nn

from lm_audio.conditioners.fuser import Conditioners, Fuse
from lm_audio.conditioners.tokens import AlignedTokens, TokenConditioner
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.track import Source
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Unmasking

CONTEXT_SECONDS = 30
KEPT_SHARE = 3  # a third of a window is the start of the next one
FIRST_STEPS = 16  # for the first codebook; the others take one each


def soundstorm(
    transformer: TransformerConfig,
    *,
    text: Callable[[int], nn.Module] | None = None,
    num_semantic_tokens: int,
    semantic_rate: Fraction,
    deduplicated: bool = False,
    num_codebooks: int,
    codebook_size: int,
    frame_rate: Fraction,
) -> MaskedStage:
    """The acoustic stage, with new weights, for a stage named "semantic" before it.

    Args:
        transformer: two-sided; with cross-attention if there is text.
        text: builds the text conditioner for a given width; None for a stage without text.
        deduplicated: whether the semantic stage makes tokens without repeats.
    """
    made: dict[str, nn.Module] = {}
    fuse: dict[str, Fuse] = {}
    if text is not None:
        made["text"], fuse["text"] = text(transformer.dim), "cross"
    if deduplicated:
        made["semantic"] = TokenConditioner(
            num_semantic_tokens, transformer.dim, deduplicate=True, null="none"
        )
        fuse["semantic"] = "prepend"
    else:
        made["semantic"] = AlignedTokens(
            num_semantic_tokens, transformer.dim, look_ahead=0, ratio=semantic_rate / frame_rate
        )
        fuse["semantic"] = "sum"
    config = TokenLMConfig(
        transformer=transformer, num_streams=num_codebooks, vocab_size=codebook_size
    )
    context = int(CONTEXT_SECONDS * frame_rate)
    return MaskedStage(
        name="acoustic",
        model=TokenLM(config).eval(),
        conditioners=Conditioners(made, fuse).eval(),
        frame_rate=frame_rate,
        window_frames=context,
        overlap_frames=context // KEPT_SHARE,
        sampling=Unmasking(steps=(FIRST_STEPS, *[1] * (num_codebooks - 1)), noise=1.0),
        source=Source(stage="semantic", condition="semantic"),
    )
