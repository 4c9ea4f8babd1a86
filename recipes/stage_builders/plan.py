"""Settings, data and plan for training a stage of any family."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.semantic.tokenizer import FeatureTokenizer, load_feature_tokenizer
from lm_audio.data.shards import Shards, Stream
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.model import Model
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.saving.stage_folder import read_stage
from lm_audio.signals import ACOUSTIC, SEMANTIC
from lm_audio.training.checkpoints import check_identity
from lm_audio.training.settings import LanguageModelSettings
from lm_audio.training.stage_batches import Dropout

VOCABULARY = 4000
"""Maximum number of word pieces of a text encoder that is trained with a stage."""


@dataclass(frozen=True, kw_only=True)
class StageSettings(LanguageModelSettings):
    """Settings that the stages of all families share."""

    family: str
    stage: str
    codec: Path = CODEC_FOLDER
    """Folder of the codec of the acoustic tokens, also used to decode samples."""
    context_seconds: float = 10.0
    """Length of the training examples and of the stage's context, in seconds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StageData:
    """The data that a stage is built for.

    Args:
        codec: decodes samples and is part of the complete model.
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
                f"The shards have {', '.join(self.shards.streams)} but no {kind} tokens; create "
                f"them with recipes/tokenize_dataset.py{option}."
            )
        return self.shards.streams[kind]

    def acoustic_stream(self) -> Stream:
        """The acoustic stream, which must be the codec's."""
        stream = self.stream(ACOUSTIC)
        check_identity(self.codec.identity, stream.identity, option="--codec")
        return stream


@dataclass(frozen=True, kw_only=True, eq=False)
class StagePlan:
    """A stage with new weights and everything that its training needs.

    Args:
        source: the stage whose tokens condition it, if any.
        dropout: how often to drop its conditions; None never drops any.
        renderer: decodes its samples.
        following: an acoustic stage that turns the samples of a semantic stage into audio.
        model: the complete model, if the other stages are given.
        next_stage: the stage of the family to train next, if any.
    """

    stage: TokenStage
    renderer: CodecRenderer
    source: LMStage | None = None
    dropout: Dropout | None = None
    following: TokenStage | None = None
    model: Model | None = None
    next_stage: str | None = None


def new_weights(settings: StageSettings) -> AbstractContextManager[object]:
    """The device for new weights; a dry run only counts them, on the meta device."""
    return torch.device("meta") if settings.dry_run else nullcontext()


def with_context(stage: LMStage, seconds: float) -> LMStage:
    """The stage with another context length; windows overlap by the same share."""
    context = int(seconds * stage.frame_rate)
    return replace(
        stage,
        window_frames=context,
        overlap_frames=context * stage.overlap_frames // stage.window_frames,
    )


def whole_model(
    stage: TokenStage,
    data: StageData,
    renderer: CodecRenderer,
    *,
    earlier: Sequence[Path],
    semantic_tokenizer: Path | None,
    output_stages: Sequence[str] = (),
) -> Model:
    """A complete model of the earlier, trained stages and this one.

    Raises ValueError unless the parts fit together.

    Args:
        earlier: output folders of the runs that trained the earlier stages.
        semantic_tokenizer: its folder, for models that continue audio.
    """
    tokens, tokenizer = data.shards.identities, _semantic_tokenizer(semantic_tokenizer, data)
    if tokenizer is not None:
        tokens[SEMANTIC] = tokenizer.identity
    stages = [read_stage(folder / "stage", tokens=tokens) for folder in earlier]
    return Model(
        [*stages, stage], renderer, output_stages=output_stages, semantic_tokenizer=tokenizer
    )


def model_after_semantic(
    stage: TokenStage,
    data: StageData,
    renderer: CodecRenderer,
    *,
    semantic: Path | None,
    semantic_tokenizer: Path | None,
    dry_run: bool,
) -> Model | None:
    """The complete model of a trained semantic stage, if one is given, and this stage."""
    if semantic is None and semantic_tokenizer is not None:
        raise ValueError(
            "--semantic-tokenizer has no effect without --semantic; pass --semantic or remove it."
        )
    if semantic is None or dry_run:
        return None
    return whole_model(
        stage, data, renderer, earlier=[semantic], semantic_tokenizer=semantic_tokenizer
    )


def _semantic_tokenizer(folder: Path | None, data: StageData) -> FeatureTokenizer | None:
    if folder is None:
        return None
    tokenizer = load_feature_tokenizer(folder)
    if stream := data.shards.streams.get(SEMANTIC):
        check_identity(tokenizer.identity, stream.identity, option="--semantic-tokenizer")
    return tokenizer
