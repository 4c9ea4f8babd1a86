"""The stages of AudioLDM and AudioLDM 2.

AudioLDM 2 translates a text to the language of audio, which leads the diffusion of latents beside
the text itself. Without the prompts, guidance takes the same way with the negative or empty text.
AudioLDM has the diffusion alone, led by CLAP's vector.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.families.audioldm.network import (
    AUDIO_LANGUAGE,
    TEXT,
    TRANSCRIPTION,
    LanguageNetwork,
    LatentUNet,
)
from lm_audio.families.audioldm.parts import AudioLdmParts
from lm_audio.families.audioldm.text import Description, Text, Transcription, Vectors
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.direct_stage import DirectStage
from lm_audio.generation.track import Source, Stage
from lm_audio.model import Model, ModelCard
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal

DIFFUSION = "diffusion"
OVERLAP = 1 / 4
"""The share of a window that the next one keeps."""
MOST_KEPT = 16
SourceOf = Callable[[Mapping[str, Any]], Tensor]


def audioldm(parts: AudioLdmParts) -> Model:
    """The model of these parts."""
    stages: list[Stage] = []
    source: Source | None = None
    source_of: SourceOf | None = None
    text: Text | None = None
    if parts.language is None:
        conditioners: dict[str, Any] = {TEXT: Description(parts.clap)}
    elif parts.t5 is not None:
        text = Text(parts.clap, parts.t5)
        conditioners = {TEXT: text}
    else:
        assert parts.speech is not None
        conditioners = {
            TEXT: Description(parts.clap),
            TRANSCRIPTION: Transcription(parts.speech),
        }
    if parts.language is not None:
        first = _audio_language(parts, conditioners)
        stages.append(first)
        source = Source(stage=AUDIO_LANGUAGE, condition=AUDIO_LANGUAGE)
        source_of = _remembering(first.values_of)
        conditioners = {**conditioners, AUDIO_LANGUAGE: Vectors(first.makes.width)}
    renderer = parts.renderer
    network = LatentUNet(parts.unet, num_columns=renderer.num_columns, text=text)
    diffusion = DiffusionStage(
        name=DIFFUSION,
        network=network.eval().requires_grad_(False),
        predicts=parts.predicts,
        schedule=parts.schedule,
        conditioners=_named(conditioners),
        makes=renderer.signal,
        window_frames=parts.window_frames,
        overlap_frames=round(OVERLAP * parts.window_frames),
        sampling=Denoising(guidance_scale=parts.guidance_scale),
        source=source,
        source_of=source_of,
    )
    card = ModelCard(licence=parts.licence)
    return Model([*stages, diffusion], renderer, judge=parts.scorer, card=card)


def _audio_language(parts: AudioLdmParts, conditioners: Mapping[str, Any]) -> DirectStage:
    language = parts.language
    assert language is not None
    reader = conditioners[TEXT]
    return DirectStage(
        name=AUDIO_LANGUAGE,
        network=LanguageNetwork(language, text=reader if isinstance(reader, Text) else None),
        conditioners=_named(conditioners),
        encoder=parts.encoder,
        makes=Signal(
            kind="vector",
            content=AUDIO_LANGUAGE,
            rate=Fraction(0),
            width=language.gpt2.config.dim,
            num_vectors=language.num_vectors,
        ),
    )


def _named(conditioners: Mapping[str, Any]) -> Conditioners:
    made = Conditioners(conditioners, dict.fromkeys(conditioners, "named"))
    return made.eval().requires_grad_(False)


def _remembering(make: Callable[[Mapping[str, Any]], Tensor]) -> SourceOf:
    """Keeps the latest results; nearly all clips need that of the empty text."""
    kept: dict[tuple[tuple[str, Any], ...], Tensor] = {}

    def made(conditions: Mapping[str, Any]) -> Tensor:
        key = tuple(sorted(conditions.items()))
        found = kept.get(key)
        if found is None:
            found = make(conditions)
            while len(kept) >= MOST_KEPT:
                kept.pop(next(iter(kept)), None)
            kept[key] = found
        return found

    return made
