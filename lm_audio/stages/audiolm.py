"""AudioLM: semantic tokens, then coarse, then fine acoustic tokens (arXiv 2209.03143).

Each stage is a decoder over one flattened stream. Coarse tokens follow the semantic tokens of their
window as a prefix, fine tokens the coarse ones of their three seconds. Without a prompt it is
unconditional; with one, all three stages continue it. Given semantic tokens alone, the speaker is
free: `generate(tokens={"semantic": ...})`.
"""

from fractions import Fraction

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import TokenConditioner
from lm_audio.models.token_lm import TokenLM, TokenLMConfig
from lm_audio.modules.transformer import TransformerConfig
from lm_audio.patterns import flattened, parallel
from lm_audio.sampling import Sampling
from lm_audio.stages.run import Source
from lm_audio.stages.stage import Stage

SEMANTIC_SECONDS, COARSE_SECONDS, FINE_SECONDS = 30, 10, 3
TEMPERATURES = {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}


def audiolm(
    transformer: TransformerConfig,
    *,
    num_semantic_tokens: int,
    semantic_rate: Fraction,
    num_coarse: int,
    num_fine: int,
    codebook_size: int,
    frame_rate: Fraction,
) -> list[Stage]:
    """All three stages, with new weights.

    Args:
        transformer: the shape of each of them.
        semantic_rate: tokens per second that are left after de-duplication, on average.
    """
    num_tokens = num_coarse * codebook_size
    return [
        Stage(
            name="semantic",
            model=_model(transformer, num_semantic_tokens),
            pattern=parallel(1),
            conditioners=Conditioners({}, {}),
            frame_rate=semantic_rate,
            context=int(SEMANTIC_SECONDS * semantic_rate),
            keep=int(SEMANTIC_SECONDS * semantic_rate) // 2,
            sampling=_sampling("semantic"),
            start_token=num_semantic_tokens,
            repeats=False,
            token_kind="semantic",
        ),
        Stage(
            name="coarse",
            model=_model(transformer, num_tokens),
            pattern=flattened(num_coarse, codebook_size=codebook_size),
            conditioners=Conditioners(
                {
                    "semantic": TokenConditioner(
                        num_semantic_tokens, transformer.dim, deduplicate=True, null="none"
                    )
                },
                {"semantic": "prepend"},
            ),
            frame_rate=frame_rate,
            context=int(COARSE_SECONDS * frame_rate),
            keep=int(COARSE_SECONDS * frame_rate) * 3 // 10,
            sampling=_sampling("coarse"),
            start_token=num_tokens,
            source=Source(stage="semantic", condition="semantic"),
        ),
        Stage(
            name="fine",
            model=_model(transformer, num_fine * codebook_size),
            pattern=flattened(num_fine, codebook_size=codebook_size),
            conditioners=Conditioners(
                {
                    "coarse": TokenConditioner(
                        codebook_size, transformer.dim, num_codebooks=num_coarse, null="none"
                    )
                },
                {"coarse": "prepend"},
            ),
            frame_rate=frame_rate,
            context=int(FINE_SECONDS * frame_rate),
            keep=0,
            sampling=_sampling("fine"),
            start_token=num_fine * codebook_size,
            source=Source(stage="coarse", condition="coarse"),
            first_codebook=num_coarse,
        ),
    ]


RENDERED = ("coarse", "fine")


def _model(transformer: TransformerConfig, num_tokens: int) -> TokenLM:
    config = TokenLMConfig(transformer=transformer, num_streams=1, vocab_size=num_tokens)
    return TokenLM(config).eval()


def _sampling(stage: str) -> Sampling:
    return Sampling(temperature=TEMPERATURES[stage], top_k=0)
