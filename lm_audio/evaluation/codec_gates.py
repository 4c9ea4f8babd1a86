"""A codec at a low rate beside another one and the originals: sound classes, words, quality.

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
from lm_audio.evaluation.gates import GatedMeasurement
from lm_audio.evaluation.judges.dnsmos import Dnsmos
from lm_audio.evaluation.judges.speech_recognition import SpeechRecognizer
from lm_audio.evaluation.lyra import Lyra
from lm_audio.evaluation.measure_gates import (
    Listener,
    Watch,
    adherence,
    compared,
    difference_of,
    excess_error_rate,
    heard_words,
    how_near,
    overall_quality,
    unwatched,
)
from lm_audio.evaluation.metrics.codebooks import bitrate
from lm_audio.evaluation.report import error_rate, mean_of

GROUP = "codec"
System = Callable[[ClipFile], Audio]
"""Gives a clip back as a codec keeps it."""
Clips = Mapping[str, Sequence[ClipFile]]
"""The same clips as they were, named ORIGINAL and first, then through ours, then through others."""
ORIGINAL = "original"


def codec_system(codec: AcousticTokenizer, *, most_bits: float) -> tuple[str, System]:
    """A codec with as many codebooks as fit into so many bits a second, at least one; its name."""
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
    clips: Sequence[ClipFile], folder: Path, system: System, *, watch: Watch = unwatched
) -> list[ClipFile]:
    """The clips as a codec gives them back; those that are in the folder are not coded again."""
    made = []
    for clip in watch(clips, folder.name):
        path = folder / f"{clip.name}.wav"
        if not path.is_file():
            audio = system(clip)
            write_audio(path, peak_safe(audio.samples), audio.sample_rate)
        made.append(replace(clip, path=path, start=0.0, duration=None))
    return made


def class_gates(
    systems: Clips, known: Sequence[ClipFile], listener: Listener
) -> list[GatedMeasurement]:
    """Whether sounds are still what they were; ours must do better than the other."""
    rows = [
        mean_of(
            adherence(clips, known, listener),
            metric=f"{name}: sound class accuracy",
            implementation=how_near(known, listener),
            better="higher",
        )
        for name, clips in systems.items()
    ]
    original, ours, *others = rows
    gate = others[0].value if others else None
    return [
        GatedMeasurement(group=GROUP, measurement=ours, gate=gate, goal=0.92, strict=True),
        *compared(GROUP, [original, *others]),
    ]


def word_gates(
    systems: Clips, recognizer: SpeechRecognizer, *, watch: Watch = unwatched
) -> list[GatedMeasurement]:
    """How much worse words are understood; ours must not do worse than the other."""
    errors = {name: heard_words(clips, recognizer, watch=watch) for name, clips in systems.items()}
    implementation = f"jiwer, lower case without punctuation; {recognizer.name}"
    original = error_rate(
        errors[ORIGINAL],
        metric=f"{ORIGINAL}: word error rate",
        implementation=implementation,
    )
    ours, *others = [
        excess_error_rate(
            errors[name],
            errors[ORIGINAL],
            metric=f"{name}: word error rate above the original's",
            implementation=implementation,
        )
        for name in systems
        if name != ORIGINAL
    ]
    gate = others[0].value if others else None
    return [
        GatedMeasurement(group=GROUP, measurement=ours, gate=gate, goal=0.02),
        *compared(GROUP, [original, *others]),
    ]


def quality_gates(
    systems: Clips, dnsmos: Dnsmos, *, watch: Watch = unwatched
) -> list[GatedMeasurement]:
    """How much worse speech sounds."""
    rated = {name: overall_quality(clips, dnsmos, watch=watch) for name, clips in systems.items()}
    implementation = f"speechmos; {dnsmos.name}"
    original = mean_of(
        rated[ORIGINAL],
        metric=f"{ORIGINAL}: DNSMOS overall",
        implementation=implementation,
        better="higher",
    )
    ours, *others = [
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
        GatedMeasurement(group=GROUP, measurement=ours, gate=0.3, goal=0.15),
        *compared(GROUP, [original, *others]),
    ]
