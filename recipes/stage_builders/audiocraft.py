"""The single stage of AudioGen and MusicGen: text and labels to all codebooks of a codec."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.conditioners.fuser import Conditioners, Fuse
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.shards import Conditions, Stream, acoustic_identity
from lm_audio.families.audiocraft.stages import KEPT_SHARE, audiogen
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import (
    Pattern,
    coarse_first,
    delayed,
    flattened,
    parallel,
    stereo,
    unrolled,
)
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from lm_audio.signals import ACOUSTIC
from lm_audio.training.checkpoints import check_identity
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.text import chosen_text
from stage_builders.plan import (
    VOCABULARY,
    StageData,
    StagePlan,
    StageSettings,
    new_weights,
)

SHAPES = {  # of the stage, and of the text encoder that is trained with it
    "tiny": (
        presets.tiny().transformer,
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "small": (
        presets.compact(dim=768, num_layers=12),
        presets.compact(dim=256, num_layers=4, reads=True),
    ),
    "paper": (
        presets.medium().transformer,
        presets.compact(dim=512, num_layers=6, reads=True),
    ),
}
PATTERNS: Mapping[str, Callable[[int, int], Pattern]] = {  # by the number and size of codebooks
    "delayed": lambda K, _: delayed(range(K)),
    "parallel": lambda K, _: parallel(K),
    "flattened": lambda K, V: flattened(K, codebook_size=V),
    "unrolled": lambda K, _: unrolled(range(K)),
    "coarse_first": lambda K, _: coarse_first(K),
}


@dataclass(frozen=True, kw_only=True)
class AudiocraftSettings(StageSettings):
    family: Literal["audiocraft"] = "audiocraft"
    stage: Literal["acoustic"] = "acoustic"
    out: Path = Path("runs/text_to_audio")
    channels: int | None = None
    """Number of channels; defaults to the codec's. 2 also works with a mono codec."""
    pattern: Literal["delayed", "parallel", "flattened", "unrolled", "coarse_first"] = "delayed"
    """Layout of the codebooks. "flattened" and "unrolled" take one step per token."""
    t5: str | None = None
    """Folder or hub id of a T5 that encodes the captions. By default a small text encoder is
    trained with the stage."""
    labels: tuple[str, ...] = ()
    """Attributes of the data to condition on besides the text, such as: label speaker."""
    joint_dropout: float = 0.1
    """Share of examples that drop all conditions, for classifier-free guidance."""
    label_dropout: float = 0.1
    """Share of examples that drop a label, per label, so that labels are optional."""


def audiocraft_acoustic(settings: AudiocraftSettings, data: StageData) -> StagePlan:
    acoustic = data.stream(ACOUSTIC)
    renderer = _renderer(settings.channels, data.codec, acoustic)
    pattern = PATTERNS[settings.pattern](renderer.codec_codebooks, acoustic.vocabulary)
    pattern = stereo(pattern) if renderer.token_sets == 2 else pattern
    transformer, reader = SHAPES[settings.preset]
    text = chosen_text(
        data.shards, reader, vocab_size=VOCABULARY, t5=settings.t5, text_encoder=None
    )
    every = [*data.shards.conditions, *data.held_out.conditions]
    labels = {name: labels_of(every, name) for name in settings.labels}
    context = int(settings.context_seconds * acoustic.rate)
    config = TokenLMConfig(
        transformer=transformer,
        num_streams=pattern.num_streams,
        vocab_size=acoustic.vocabulary * (pattern.num_codebooks // pattern.num_streams),
    )
    with new_weights(settings):
        conditioners = {"text": text(transformer.dim)}
        for name, values in labels.items():
            conditioners[name] = LabelConditioner(values, transformer.dim)
        fuse: dict[str, Fuse] = dict.fromkeys(conditioners, "cross")
        (stage,) = audiogen(
            TokenLM(config),
            pattern=pattern,
            conditioners=Conditioners(conditioners, fuse),
            frame_rate=acoustic.rate,
            window_frames=context,
            overlap_frames=int(context * KEPT_SHARE),
            sampling=Sampling(),
        )
    each = dict.fromkeys(settings.labels, settings.label_dropout)
    return StagePlan(
        stage=stage,
        dropout=Dropout(joint=settings.joint_dropout, each=each),
        renderer=renderer,
        model=Model([stage], renderer),
    )


def labels_of(conditions: Sequence[Conditions], name: str) -> list[str]:
    """All values of an attribute, those of held-out examples included."""
    found = [each[name] for each in conditions if name in each]
    if name == "text" or not found or not all(isinstance(value, str) for value in found):
        given = [(key, value) for each in conditions for key, value in each.items()]
        known = {key for key, value in given if isinstance(value, str) and key != "text"}
        raise ValueError(
            f"Unknown label {name!r}. The data has: {', '.join(sorted(known)) or 'no labels'}."
        )
    return sorted(set(map(str, found)))


def _renderer(channels: int | None, codec: AcousticTokenizer, acoustic: Stream) -> CodecRenderer:
    """A renderer for the codebooks in the data; raises unless codec and channels match."""
    token_sets = CodecRenderer(codec, num_channels=channels).token_sets
    identity = acoustic_identity(codec.identity, token_sets=token_sets)
    check_identity(identity, acoustic.identity, option="--codec with --channels")
    codebooks = acoustic.num_codebooks // token_sets
    return CodecRenderer(codec, num_channels=channels, num_codebooks=codebooks)
