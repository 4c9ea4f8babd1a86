"""A model as plain data: what is loaded, saved and exported. `AudioPipeline` runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.generation.checks import check_renderer, check_semantic_tokenizer, check_stages
from lm_audio.generation.track import AnyStage
from lm_audio.renderers.protocol import Renderer


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What people should know of a model before they use it; None is not known.

    Args:
        licence: of the weights, by its SPDX name, such as CC-BY-NC-4.0.
    """

    name: str | None = None
    licence: str | None = None
    description: str | None = None


@dataclass(frozen=True, eq=False)
class Model:
    """Stages, a renderer, and what audio prompts need.

    Args:
        stages: in the order in which they condition each other.
        output_stages: the names of those that are rendered; the last one by default.
        semantic_tokenizer: for audio prompts of stages over semantic tokens.
    """

    stages: Sequence[AnyStage]
    renderer: Renderer
    output_stages: Sequence[str] = ()
    semantic_tokenizer: SemanticTokenizer | None = None
    card: ModelCard = field(default_factory=ModelCard)

    def __post_init__(self) -> None:
        check_stages(self.stages, output_stages=self.output_stages)
        object.__setattr__(self, "stages", tuple(self.stages))
        names = self.output_stages or [self.stages[-1].name]
        object.__setattr__(self, "output_stages", tuple(names))
        check_renderer(self.stages, self.renderer, output_stages=self.output_stages)
        if self.semantic_tokenizer is not None:
            check_semantic_tokenizer(self.stages, self.semantic_tokenizer)
