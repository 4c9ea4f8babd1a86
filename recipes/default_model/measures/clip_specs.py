"""Clips to generate for an evaluation, kept in files so that none is generated twice.

The caller generates them; this module is independent of models.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.augmentation import peak_safe
from lm_audio.evaluation.clips import ClipFile
from measures.corpus_clips import CorpusClip


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """A clip to generate.

    Args:
        prompt: the sound to continue.
        guided: whether to use the model's guidance; without it the scale is 1.
        label, speaker: the expected class and speaker.
    """

    name: str
    seconds: float
    seed: int
    text: str | None = None
    prompt: ClipFile | None = None
    guided: bool = True
    label: str | None = None
    speaker: str | None = None

    @property
    def file_name(self) -> str:
        """The name of the clip's file; it does not depend on the folder of the prompt."""
        prompt = self.prompt and replace(self.prompt, path=Path(self.prompt.path.name))
        content = repr(replace(self, prompt=prompt))
        digest = hashlib.sha256(content.encode()).hexdigest()[:12]
        plain = "".join(c if c.isalnum() else "_" for c in self.name)
        return f"{plain}-{digest}.wav"


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratedClip:
    """New sound [C, N], without the prompt, and its semantic tokens [1, T], if any."""

    samples: Tensor
    sample_rate: int
    semantic: Tensor | None = None


Generate = Callable[[Sequence[ClipSpec]], Sequence[GeneratedClip]]


def caption_specs(
    captions: Mapping[str, Sequence[str]],
    *,
    clips_per_label: int,
    seconds: float,
    seed: int,
) -> list[ClipSpec]:
    """Clips for each label, whose captions take turns in random order."""
    specs = []
    for label, texts in captions.items():
        random = np.random.default_rng([seed, *label.encode()])
        turns = random.permutation(len(texts))
        for number in range(clips_per_label):
            text = texts[turns[number % len(texts)]]
            own_seed = int(random.integers(2**31))
            specs.append(
                ClipSpec(
                    name=f"{label} {number:02}",
                    seconds=seconds,
                    seed=own_seed,
                    text=text,
                    label=label,
                )
            )
    return specs


def continuation_specs(
    clips: Sequence[CorpusClip], *, prompt: float, seconds: float
) -> list[ClipSpec]:
    """Continuations of the first `prompt` seconds of each clip."""
    return [
        ClipSpec(
            name=clip.name,
            seconds=seconds,
            seed=number,
            prompt=clip.part(0, prompt),
            speaker=clip.speaker,
        )
        for number, clip in enumerate(clips)
    ]


def generate_missing(
    specs: Sequence[ClipSpec],
    folder: Path,
    generate: Generate,
    *,
    batch: int = 10,
    progress: Callable[[int], object] = lambda _: None,
) -> list[ClipFile]:
    """The clips of all specs, in order; those missing from the folder are generated first.

    Args:
        generate: takes specs that all have a prompt or all lack one, all guided or all not.
        progress: called with the number of clips that have become available.
    """
    paths = [folder / spec.file_name for spec in specs]
    absent = [pair for pair in zip(specs, paths, strict=True) if not pair[1].is_file()]
    progress(len(specs) - len(absent))
    for some in _batches(absent, batch):
        clips = generate([spec for spec, _ in some])
        for (_, path), clip in zip(some, clips, strict=True):
            if clip.semantic is not None:
                with replacing(_token_path(path)) as temporary:
                    save_file({"semantic": clip.semantic.contiguous()}, temporary)
            write_audio(path, peak_safe(clip.samples), clip.sample_rate)
        progress(len(some))
    return [
        ClipFile(
            name=path.stem,
            path=path,
            text=spec.text,
            label=spec.label,
            speaker=spec.speaker,
        )
        for spec, path in zip(specs, paths, strict=True)
    ]


def semantic_tokens(clips: Iterable[ClipFile]) -> list[Tensor]:
    """The semantic tokens [T] of clips from `generate_missing`, those that have any."""
    paths = [_token_path(clip.path) for clip in clips]
    return [load_file(path)["semantic"][0] for path in paths if path.is_file()]


def _batches(
    pairs: Sequence[tuple[ClipSpec, Path]], size: int
) -> Iterable[Sequence[tuple[ClipSpec, Path]]]:
    """Batches of specs of one kind."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    for kind in kinds:
        some = [p for p in pairs if (p[0].guided, p[0].prompt is not None) == kind]
        yield from (some[start : start + size] for start in range(0, len(some), size))


def _token_path(path: Path) -> Path:
    return path.with_suffix(".safetensors")
