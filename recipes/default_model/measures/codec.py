"""A codec at a low bit rate, compared with another codec and the originals.

Measures sound classes, words and the quality of speech.

Shapes: C channels, N samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from audio_tokenizers.audio_files import Audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.data.augmentation import peak_safe
from lm_audio.evaluation.clips import ClipFile
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.judges.speech_recognition import SpeechRecognizer
from lm_audio.evaluation.metrics.codebooks import bitrate
from lm_audio.evaluation.report import error_rate, mean_of
from measures.clip_scores import (
    ClipEmbedder,
    Progress,
    adherence,
    clip_word_errors,
    describe_knn,
    difference_of,
    excess_error_rate,
    no_progress,
    overall_quality,
    without_target,
)
from measures.lyra import Lyra
from measures.targets import TargetResult

GROUP = "codec"
System = Callable[[ClipFile], Audio]
"""Encodes and decodes a clip."""
Clips = Mapping[str, Sequence[ClipFile]]
"""The same clips by system: ORIGINAL first, then the model's codec, then the others."""
ORIGINAL = "original"


def codec_system(codec: AcousticTokenizer, *, most_bits: float) -> tuple[str, System]:
    """A codec with all codebooks that fit into `most_bits` a second (at least one); its name."""
    rates = [
        bitrate(frame_rate=codec.frame_rate, num_codebooks=k, codebook_size=codec.codebook_size)
        for k in range(1, codec.num_codebooks + 1)
    ]
    num_codebooks = max(1, sum(rate <= most_bits for rate in rates))

    @torch.inference_mode()
    def through(clip: ClipFile) -> Audio:
        audio = clip.audio(codec.sample_rate, num_channels=codec.num_channels)
        samples = audio.samples[None]  # [1, C, N]
        tokens = codec.encode(samples, num_codebooks=num_codebooks)
        answer = codec.decode(tokens, num_samples=samples.shape[2], gains=codec.gains(samples))
        return Audio(samples=answer[0].float(), sample_rate=codec.sample_rate)

    return f"codec at {rates[num_codebooks - 1] / 1000:g} kb/s", through


def lyra_system(lyra: Lyra) -> tuple[str, System]:
    def through(clip: ClipFile) -> Audio:
        samples = lyra(clip.audio(lyra.sample_rate).samples[0])
        return Audio(samples=samples[None], sample_rate=lyra.sample_rate)

    return lyra.name, through


def coded(
    clips: Sequence[ClipFile], folder: Path, system: System, *, progress: Progress = no_progress
) -> list[ClipFile]:
    """The clips as a system decodes them; those already in the folder are reused."""
    made = []
    for clip in progress(clips, folder.name):
        path = folder / f"{clip.name}.wav"
        if not path.is_file():
            audio = system(clip)
            write_audio(path, peak_safe(audio.samples), audio.sample_rate)
        made.append(replace(clip, path=path, start=0.0, duration=None))
    return made


def class_results(
    systems: Clips, known: Sequence[ClipFile], embedder: ClipEmbedder
) -> list[TargetResult]:
    """Whether sounds keep their class; the target is to beat the other codec."""
    rows = [
        mean_of(
            adherence(clips, known, embedder),
            metric=f"{name}: sound class accuracy",
            implementation=describe_knn(known, embedder),
            better="higher",
        )
        for name, clips in systems.items()
    ]
    original, own, *others = rows
    target = others[0].value if others else None
    return [
        TargetResult(group=GROUP, measurement=own, target=target, stretch=0.92, strict=True),
        *without_target(GROUP, [original, *others]),
    ]


def word_results(
    systems: Clips, recognizer: SpeechRecognizer, *, progress: Progress = no_progress
) -> list[TargetResult]:
    """The word error rate added by coding; the target is to be no worse than the other codec."""
    errors = {
        name: clip_word_errors(clips, recognizer, progress=progress)
        for name, clips in systems.items()
    }
    implementation = f"jiwer, lower case without punctuation; {recognizer.name}"
    original = error_rate(
        errors[ORIGINAL],
        metric=f"{ORIGINAL}: word error rate",
        implementation=implementation,
    )
    own, *others = [
        excess_error_rate(
            errors[name],
            errors[ORIGINAL],
            metric=f"{name}: word error rate above the original's",
            implementation=implementation,
        )
        for name in systems
        if name != ORIGINAL
    ]
    target = others[0].value if others else None
    return [
        TargetResult(group=GROUP, measurement=own, target=target, stretch=0.02),
        *without_target(GROUP, [original, *others]),
    ]


def quality_results(
    systems: Clips, dnsmos: Dnsmos, *, progress: Progress = no_progress
) -> list[TargetResult]:
    """The loss of speech quality."""
    rated = {
        name: overall_quality(clips, dnsmos, progress=progress) for name, clips in systems.items()
    }
    implementation = f"speechmos; {dnsmos.name}"
    original = mean_of(
        rated[ORIGINAL],
        metric=f"{ORIGINAL}: DNSMOS overall",
        implementation=implementation,
        better="higher",
    )
    own, *others = [
        difference_of(
            rated[ORIGINAL],
            rated[name],
            metric=f"{name}: DNSMOS overall below the original's",
            implementation=implementation,
            better="lower",
        )
        for name in systems
        if name != ORIGINAL
    ]
    return [
        TargetResult(group=GROUP, measurement=own, target=0.3, stretch=0.15),
        *without_target(GROUP, [original, *others]),
    ]
