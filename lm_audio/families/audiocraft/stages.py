"""AudioGen, MusicGen and MAGNeT: text -> all codebooks in one stage.

AudioGen (arXiv 2209.15352) and MusicGen (2306.05284) decide frame after frame, MAGNeT (2401.04577)
all frames in parallel, in spans of three.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.audiocraft.parts import MusicGenParts
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.track import Stage
from lm_audio.model import Model, ModelCard
from lm_audio.networks.token_lm import TokenLM
from lm_audio.patterns import Pattern
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling, Unmasking

KEPT_SHARE = Fraction(2, 5)  # overlap of consecutive windows


def audiogen(
    model: TokenLM,
    *,
    pattern: Pattern,
    conditioners: Conditioners,
    frame_rate: Fraction,
    window_frames: int,
    overlap_frames: int,
    sampling: Sampling,
) -> list[LMStage]:
    """The only stage of AudioGen and MusicGen."""
    return [
        LMStage(
            name="acoustic",
            model=model.eval(),
            pattern=pattern,
            conditioners=conditioners.eval(),
            frame_rate=frame_rate,
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            sampling=sampling,
            start_token=model.config.vocab_size,
        )
    ]


def magnet(
    model: TokenLM,
    *,
    conditioners: Conditioners,
    frame_rate: Fraction,
    window_frames: int,
    overlap_frames: int,
    span: int,
    reach: int | None,
    sampling: Unmasking,
) -> list[MaskedStage]:
    """The only stage of MAGNeT, which was trained on windows of one length."""
    return [
        MaskedStage(
            name="acoustic",
            model=model.eval(),
            conditioners=conditioners.eval(),
            frame_rate=frame_rate,
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            span=span,
            reach=reach,
            whole_windows=True,
            sampling=sampling,
        )
    ]


def model_of(parts: MusicGenParts) -> Model:
    """A checkpoint as a model."""
    token_sets = parts.num_channels // parts.codec.num_channels
    renderer = CodecRenderer(
        parts.codec,
        num_channels=parts.num_channels,
        num_codebooks=parts.model.config.num_streams // token_sets,
    )
    return Model(_stages(parts), renderer, card=ModelCard(licence=parts.licence))


def _stages(parts: MusicGenParts) -> Sequence[Stage]:
    windows: dict[str, Any] = {
        "frame_rate": parts.frame_rate,
        "window_frames": parts.max_frames,
        "overlap_frames": int(parts.max_frames * KEPT_SHARE),
    }
    if parts.masking is not None:
        assert isinstance(parts.sampling, Unmasking)
        return magnet(
            parts.model,
            conditioners=parts.conditioners,
            span=parts.masking.span,
            reach=parts.masking.reach,
            sampling=parts.sampling,
            **windows,
        )
    assert isinstance(parts.sampling, Sampling)
    return audiogen(
        parts.model,
        pattern=parts.pattern,
        conditioners=parts.conditioners,
        sampling=parts.sampling,
        **windows,
    )
