"""AudioLM: semantic tokens, then coarse, then fine acoustic tokens (arXiv 2209.03143).

Each stage is a decoder over one flattened stream. The coarse stage has the semantic tokens of its
window as a prefix, the fine stage the coarse tokens of its three seconds. Without a prompt the
model is unconditional; with one, all three stages continue it. Semantic tokens alone,
`generate(tokens={"semantic": ...})`, leave the speaker undetermined.
"""

from fractions import Fraction
from typing import Any

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import TokenConditioner
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Source
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import flattened, parallel
from lm_audio.sampling import Sampling

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
) -> list[LMStage]:
    """All three stages, with new weights.

    Args:
        transformer: the shape of each stage.
        semantic_rate: the average number of tokens per second after deduplication.
    """
    semantic = TokenConditioner(num_semantic_tokens, transformer.dim, deduplicate=True, null="none")
    coarse = TokenConditioner(codebook_size, transformer.dim, num_codebooks=num_coarse, null="none")
    semantic_context = int(SEMANTIC_SECONDS * semantic_rate)
    coarse_context = int(COARSE_SECONDS * frame_rate)
    return [
        LMStage(
            name="semantic",
            pattern=parallel(1),
            conditioners=Conditioners({}, {}),
            frame_rate=semantic_rate,
            window_frames=semantic_context,
            overlap_frames=semantic_context // 2,
            deduplicated=True,
            token_kind="semantic",
            sampling=_sampling("semantic"),
            **_model(transformer, num_semantic_tokens),
        ),
        LMStage(
            name="coarse",
            pattern=flattened(num_coarse, codebook_size=codebook_size),
            conditioners=Conditioners({"semantic": semantic}, {"semantic": "prepend"}),
            frame_rate=frame_rate,
            window_frames=coarse_context,
            overlap_frames=coarse_context * 3 // 10,
            source=Source(stage="semantic", condition="semantic"),
            sampling=_sampling("coarse"),
            **_model(transformer, num_coarse * codebook_size),
        ),
        LMStage(
            name="fine",
            pattern=flattened(num_fine, codebook_size=codebook_size),
            conditioners=Conditioners({"coarse": coarse}, {"coarse": "prepend"}),
            frame_rate=frame_rate,
            window_frames=int(FINE_SECONDS * frame_rate),
            overlap_frames=0,
            source=Source(stage="coarse", condition="coarse"),
            first_codebook=num_coarse,
            sampling=_sampling("fine"),
            **_model(transformer, num_fine * codebook_size),
        ),
    ]


RENDERED = ("coarse", "fine")


def _model(transformer: TransformerConfig, num_tokens: int) -> dict[str, Any]:
    """A model over one stream, and its start token."""
    config = TokenLMConfig(transformer=transformer, num_streams=1, vocab_size=num_tokens)
    return {"model": TokenLM(config).eval(), "start_token": num_tokens}


def _sampling(stage: str) -> Sampling:
    return Sampling(temperature=TEMPERATURES[stage], top_k=0)
