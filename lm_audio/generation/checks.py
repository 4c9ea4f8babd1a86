"""Whether stages, renderer and semantic tokenizer fit each other."""

from collections.abc import Collection, Sequence
from fractions import Fraction

from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.generation.plan import needed
from lm_audio.generation.track import AnyStage
from lm_audio.renderers.protocol import Renderer


def check_stages(stages: Sequence[AnyStage], *, output_stages: Sequence[str] = ()) -> None:
    """Raises ValueError unless names are unique, and those of other stages stand for some."""
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"Got the stages {names}; give at least one, and each another name.")
    for i, stage in enumerate(stages):
        if stage.source is not None and stage.source.stage not in names[:i]:
            raise ValueError(
                f"The {stage.name} stage takes the tokens of {stage.source.stage!r}, which is no "
                f"stage before it; there are {names[:i]}."
            )
    for name in output_stages:
        if name not in names:
            raise ValueError(f"There is no stage '{name}' to render. Choose from: {names}.")
    made = [one.name for one in needed(stages, output_stages=output_stages or names[-1:], given=())]
    if unused := [name for name in names if name not in made]:
        raise ValueError(f"Nothing that is rendered needs the {unused[0]} stage; leave it out.")


def check_renderer(
    stages: Sequence[AnyStage], renderer: Renderer, *, output_stages: Collection[str]
) -> None:
    """Raises ValueError unless acoustic tokens are the renderer's, as many and as fast."""
    K = sum(stage.num_codebooks for stage in stages if stage.name in output_stages)
    if renderer.num_codebooks != K:
        raise ValueError(
            f"The stages make {K} codebooks and the renderer takes {renderer.num_codebooks}; "
            "give ones that fit."
        )
    frame_rate = Fraction(renderer.sample_rate, renderer.hop_length)
    for stage in stages:
        if stage.token_kind != "acoustic" and stage.name not in output_stages:
            continue
        if (stage.frame_rate, stage.num_tokens) != (frame_rate, renderer.codebook_size):
            raise ValueError(
                f"The {stage.name} stage makes {stage.frame_rate} frames a second of "
                f"{stage.num_tokens} tokens and the renderer takes {frame_rate} of "
                f"{renderer.codebook_size}; give ones that fit."
            )


def check_semantic_tokenizer(stages: Sequence[AnyStage], tokenizer: SemanticTokenizer) -> None:
    """Raises ValueError unless its tokens are those of the semantic stage."""
    for stage in stages:
        if stage.token_kind == "semantic" and stage.num_tokens != tokenizer.num_tokens:
            raise ValueError(
                f"The {stage.name} stage has {stage.num_tokens} tokens and the semantic tokenizer "
                f"{tokenizer.num_tokens}; give ones that fit."
            )
