"""Clips to generate for an evaluation: what is asked for, and what is there already.

How a clip is made is for the caller, who knows models: here is only which, and where they are kept.

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
from lm_audio.evaluation.corpus_clips import CorpusClip


@dataclass(frozen=True, kw_only=True)
class Order:
    """A clip to generate.

    Args:
        prompt: the sound that it continues.
        guided: whether the model's own guidance is on; off means a scale of 1.
        label, speaker: what the clip ought to be.
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
        """That of the clip: the same order has the same one, wherever its prompt lies."""
        prompt = self.prompt and replace(self.prompt, path=Path(self.prompt.path.name))
        order = repr(replace(self, prompt=prompt))
        digest = hashlib.sha256(order.encode()).hexdigest()[:12]
        plain = "".join(c if c.isalnum() else "_" for c in self.name)
        return f"{plain}-{digest}.wav"


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """New sound [C, N], without its prompt, and its semantic tokens [1, T], if it has any."""

    samples: Tensor
    sample_rate: int
    semantic: Tensor | None = None


Make = Callable[[Sequence[Order]], Sequence[Made]]


def caption_orders(
    captions: Mapping[str, Sequence[str]],
    *,
    clips_per_label: int,
    seconds: float,
    seed: int,
) -> list[Order]:
    """So many clips for each label, of its captions in turns, in an order that is drawn."""
    orders = []
    for label, texts in captions.items():
        random = np.random.default_rng([seed, *label.encode()])
        turns = random.permutation(len(texts))
        for number in range(clips_per_label):
            text = texts[turns[number % len(texts)]]
            own_seed = int(random.integers(2**31))
            orders.append(
                Order(
                    name=f"{label} {number:02}",
                    seconds=seconds,
                    seed=own_seed,
                    text=text,
                    label=label,
                )
            )
    return orders


def continuation_orders(
    clips: Sequence[CorpusClip], *, prompt: float, seconds: float
) -> list[Order]:
    """New seconds after the first ones of each clip."""
    return [
        Order(
            name=clip.name,
            seconds=seconds,
            seed=number,
            prompt=clip.part(0, prompt),
            speaker=clip.speaker,
        )
        for number, clip in enumerate(clips)
    ]


def fulfil(
    orders: Sequence[Order],
    folder: Path,
    make: Make,
    *,
    batch: int = 10,
    progress: Callable[[int], object] = lambda _: None,
) -> list[ClipFile]:
    """The clips in a folder, in order; those that are not there yet are made and written.

    Args:
        make: makes a few clips, all with a prompt or all without, all guided or all not.
        progress: called with the number of clips that are there, whenever there are more.
    """
    places = [folder / order.file_name for order in orders]
    waiting = [pair for pair in zip(orders, places, strict=True) if not pair[1].is_file()]
    progress(len(orders) - len(waiting))
    for some in _batches(waiting, batch):
        for (_, path), made in zip(some, make([order for order, _ in some]), strict=True):
            if made.semantic is not None:
                with replacing(_token_path(path)) as temporary:
                    save_file({"semantic": made.semantic.contiguous()}, temporary)
            write_audio(path, peak_safe(made.samples), made.sample_rate)
        progress(len(some))
    return [
        ClipFile(
            name=path.stem,
            path=path,
            text=order.text,
            label=order.label,
            speaker=order.speaker,
        )
        for order, path in zip(orders, places, strict=True)
    ]


def semantic_tokens(clips: Iterable[ClipFile]) -> list[Tensor]:
    """The semantic tokens [T] of clips that `fulfil` gave, those that have any."""
    paths = [_token_path(clip.path) for clip in clips]
    return [load_file(path)["semantic"][0] for path in paths if path.is_file()]


def _batches(
    pairs: Sequence[tuple[Order, Path]], size: int
) -> Iterable[Sequence[tuple[Order, Path]]]:
    """Runs of orders of one kind."""
    kinds = [(True, True), (True, False), (False, True), (False, False)]
    for kind in kinds:
        some = [p for p in pairs if (p[0].guided, p[0].prompt is not None) == kind]
        yield from (some[start : start + size] for start in range(0, len(some), size))


def _token_path(path: Path) -> Path:
    return path.with_suffix(".safetensors")
