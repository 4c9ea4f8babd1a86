"""What is needed to train a stage, whatever the family: settings, data, and a plan."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer, load_feature_tokenizer
from lm_audio.data.shards import Shards, Stream
from lm_audio.generation.lm_stage import LMStage
from lm_audio.model import Model
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.saving.stage_folder import read_stage
from lm_audio.signals import ACOUSTIC, SEMANTIC
from lm_audio.training.checkpoints import check_identity
from lm_audio.training.settings import LanguageModelSettings
from lm_audio.training.stage_batches import Dropout

VOCABULARY = 4000
"""The most word pieces of a text encoder that is trained with a stage."""


@dataclass(frozen=True, kw_only=True)
class StageSettings(LanguageModelSettings):
    """What the stages of all families have in common."""

    family: str
    stage: str
    codec: Path = CODEC_FOLDER
    """The codec that made the acoustic tokens; it also makes samples audible."""
    context_seconds: float = 10.0
    """The length of the training examples, and of what the stage sees at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageData:
    """What a stage is built for.

    Args:
        codec: makes samples audible, and is part of the whole model.
        device: where the run takes place.
    """

    shards: Shards
    held_out: Shards
    codec: AcousticTokenizer
    device: torch.device

    def stream(self, kind: str) -> Stream:
        """The semantic or acoustic stream; acoustic tokens must be the codec's."""
        if kind not in self.shards.streams:
            option = " --semantic" * (kind == SEMANTIC)
            raise ValueError(
                f"The shards have {', '.join(self.shards.streams)} and no {kind} tokens; make them "
                f"with recipes/tokenize_dataset.py{option}."
            )
        return self.shards.streams[kind]

    def acoustic_stream(self) -> Stream:
        """The acoustic stream, which must be the codec's."""
        stream = self.stream(ACOUSTIC)
        check_identity(self.codec.identity, stream.identity, option="--codec")
        return stream


@dataclass(frozen=True, kw_only=True, eq=False)
class StagePlan:
    """A stage with new weights, and what its training needs.

    Args:
        source: the stage whose tokens condition it, if there is one.
        dropout: how often its conditions are dropped; None never drops any.
        renderer: makes its samples audible.
        following: an acoustic stage that makes the samples of a semantic stage audible.
        model: a whole model around it, if the other stages are there.
        next_stage: the stage of the family to train next, if there is one.
    """

    stage: LMStage
    renderer: CodecRenderer
    source: LMStage | None = None
    dropout: Dropout | None = None
    following: LMStage | None = None
    model: Model | None = None
    next_stage: str | None = None


def new_weights(settings: StageSettings) -> AbstractContextManager[object]:
    """Where to make the weights of a stage; those that a dry run only counts take no memory."""
    return torch.device("meta") if settings.dry_run else nullcontext()


def with_context(stage: LMStage, seconds: float) -> LMStage:
    """The stage with another context; windows overlap by the same share."""
    context = int(seconds * stage.frame_rate)
    return replace(
        stage,
        window_frames=context,
        overlap_frames=context * stage.overlap_frames // stage.window_frames,
    )


def whole_model(
    stage: LMStage,
    data: StageData,
    renderer: CodecRenderer,
    *,
    earlier: Sequence[Path],
    semantic_tokenizer: Path | None,
    output_stages: Sequence[str] = (),
) -> Model:
    """A model of trained stages and the one that is to be trained.

    Raises ValueError unless the parts fit together.

    Args:
        earlier: the output folders of the runs that trained the stages before it.
        semantic_tokenizer: its folder, for models that continue sound.
    """
    tokens, tokenizer = data.shards.identities, _semantic_tokenizer(semantic_tokenizer, data)
    if tokenizer is not None:
        tokens[SEMANTIC] = tokenizer.identity
    stages = [read_stage(folder / "stage", tokens=tokens) for folder in earlier]
    return Model(
        [*stages, stage], renderer, output_stages=output_stages, semantic_tokenizer=tokenizer
    )


def _semantic_tokenizer(folder: Path | None, data: StageData) -> FeatureTokenizer | None:
    if folder is None:
        return None
    tokenizer = load_feature_tokenizer(folder)
    if stream := data.shards.streams.get(SEMANTIC):
        check_identity(tokenizer.identity, stream.identity, option="--semantic-tokenizer")
    return tokenizer
