"""A model as plain data, for loading, saving and exporting. `AudioPipeline` runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from torch import nn

from audio_tokenizers.protocol import SemanticTokenizer
from lm_audio.conditioners.description import text_encoders
from lm_audio.conditioners.frozen import FrozenEncoder, shared
from lm_audio.conditioners.known_prompts import KnownPrompts, PromptCheck
from lm_audio.conditioners.sentence import SentenceEncoder
from lm_audio.generation.clip_job import needed
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.direct_stage import DirectStage
from lm_audio.generation.takes import Judge
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Stage
from lm_audio.networks.packing import num_parameters
from lm_audio.renderers.protocol import Renderer
from lm_audio.signals import SEMANTIC


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Facts about a model; None means unknown.

    Args:
        licence: of the weights, as an SPDX identifier such as CC-BY-NC-4.0.
        known: the prompts that the model was trained on.
    """

    name: str | None = None
    licence: str | None = None
    description: str | None = None
    known: KnownPrompts | None = None

    def __post_init__(self) -> None:
        if isinstance(self.known, dict):  # as config.json has it
            object.__setattr__(self, "known", KnownPrompts(**self.known))


@dataclass(frozen=True, eq=False)
class Model:
    """Stages, a renderer, and the tokenizer for audio prompts.

    Args:
        stages: in cascade order.
        output_stages: the names of the stages whose output is rendered; the last one by default.
        semantic_tokenizer: encodes audio prompts for stages over semantic tokens.
        judge: picks the best of several takes.
    """

    stages: Sequence[Stage]
    renderer: Renderer
    output_stages: Sequence[str] = ()
    semantic_tokenizer: SemanticTokenizer | None = None
    card: ModelCard = field(default_factory=ModelCard)
    judge: Judge | None = None

    def __post_init__(self) -> None:
        _check_stages(self.stages, output_stages=self.output_stages)
        object.__setattr__(self, "stages", tuple(self.stages))
        names = self.output_stages or [self.stages[-1].name]
        object.__setattr__(self, "output_stages", tuple(names))
        _check_renderer(self.stages, self.renderer, output_stages=self.output_stages)
        if self.semantic_tokenizer is not None:
            _check_semantic_tokenizer(self.stages, self.semantic_tokenizer)

    @property
    def text_encoder(self) -> FrozenEncoder | None:
        """The frozen text encoder that the stages share, if there is one."""
        return shared(
            encoder
            for stage in self.stages
            if isinstance(stage, TokenStage | DiffusionStage | DirectStage)
            for encoder in text_encoders(stage.conditioners).values()
        )

    @cached_property
    def prompt_check(self) -> PromptCheck | None:
        """Compares prompts with those that the model was trained on, if its card lists them."""
        known, encoder = self.card.known, self.text_encoder
        if known is None or not isinstance(encoder, SentenceEncoder):
            return None
        return PromptCheck(known, encoder)

    @property
    def required_judge(self) -> Judge:
        """The judge, for calls that cannot do without."""
        if self.judge is None:
            raise ValueError(
                "best_of needs a judge, which this model does not have. Load it with the judge of "
                "your choice, such as judge='laion/clap-htsat-unfused'."
            )
        return self.judge

    @property
    def denoises(self) -> bool:
        """Whether all signals with frames come from diffusion, so that it can vary and loop."""
        framed = [stage for stage in self.stages if stage.makes.kind != "vector"]
        return all(isinstance(stage, DiffusionStage) for stage in framed)

    def with_stage(self, stage: Stage) -> "Model":
        """The same model with this stage in place of the one with the same name."""
        stages = [stage if one.name == stage.name else one for one in self.stages]
        return replace(self, stages=stages)


def size_of(stage: Stage) -> str:
    """The size of a stage's network in words."""
    return f"{num_stage_parameters(stage) / 1e6:.3g} M parameters"


def num_stage_parameters(stage: Stage) -> int:
    """The number of parameters of a stage's network."""
    network = getattr(stage, "model", None) or getattr(stage, "network", None)
    return num_parameters(network) if isinstance(network, nn.Module) else 0


def _check_stages(stages: Sequence[Stage], *, output_stages: Sequence[str]) -> None:
    """Stage names must be unique, and each source must be an earlier stage."""
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names) or "" in names:
        raise ValueError(f"Stage names must be unique and non-empty, got {names}.")
    for i, stage in enumerate(stages):
        if stage.source is not None and stage.source.stage not in names[:i]:
            raise ValueError(
                f"The source of the {stage.name} stage, {stage.source.stage!r}, is not an earlier "
                f"stage. Earlier stages: {names[:i]}."
            )
    for name in output_stages:
        if name not in names:
            raise ValueError(f"Unknown output stage '{name}'. Choose from: {names}.")
    made = [one.name for one in needed(stages, output_stages=output_stages or names[-1:], given=())]
    if unused := [name for name in names if name not in made]:
        raise ValueError(f"No output stage depends on the {unused[0]} stage. Remove it.")


def _check_renderer(
    stages: Sequence[Stage], renderer: Renderer, *, output_stages: Sequence[str]
) -> None:
    """The signals of the output stages must add up to the renderer's input signal."""
    takes = renderer.signal
    for stage in stages:
        if stage.makes.content != takes.content and stage.name not in output_stages:
            continue
        makes = replace(stage.makes, content=takes.content, width=takes.width)
        if makes != takes:
            raise ValueError(
                f"The output of the {stage.name} stage, {stage.makes}, does not match the input of "
                f"the renderer, {takes}."
            )
    width = sum(stage.makes.width for stage in stages if stage.name in output_stages)
    if takes.width != width:
        raise ValueError(
            f"The output stages have {width} rows in total, but the renderer expects {takes.width}."
        )


def _check_semantic_tokenizer(stages: Sequence[Stage], tokenizer: SemanticTokenizer) -> None:
    """Its tokens must be those of the semantic stage."""
    for stage in stages:
        makes = stage.makes
        if makes.content == SEMANTIC and makes.num_tokens != tokenizer.num_tokens:
            raise ValueError(
                f"The {stage.name} stage has {makes.num_tokens} tokens, but the semantic tokenizer "
                f"has {tokenizer.num_tokens}."
            )
