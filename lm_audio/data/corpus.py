"""Random training segments of audio from a plain folder, a prepared corpus or shards.

A plain folder or a prepared corpus is read into memory as 16-bit samples, which suits a few hours
of audio; shards are memory-mapped and may have any size.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.audio_files import find_audio, read_audio
from lm_audio.data.manifest import SPLITS, Split, choose_held_out, read_cut_audio, read_cuts
from lm_audio.data.shards import Shards, shard_path

logger = logging.getLogger(__name__)
HELD_OUT_SHARE = 0.05
FULL_SCALE = 2**15


class Samples(Protocol):
    """An array [N], int16, or an object that is sliced like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Mono audio; a kind is sampled in proportion to the square root of its length."""

    kind: str
    name: str
    samples: Samples


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Training clips and held-out clips."""

    train: list[Recording]
    held_out: list[Recording]

    @property
    def fingerprint(self) -> str:
        """A hash of the training clips and their order."""
        facts = [[clip.kind, clip.name, len(clip.samples)] for clip in self.train]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def load_corpus(folder: Path, *, sample_rate: int) -> Corpus:
    """Reads all audio of a folder, in mono.

    Args:
        folder: shards with a stream of samples; a prepared corpus; a folder of several of these,
            one per kind of clips; or a plain folder, with one subfolder per kind. Of a plain
            folder, a share is held out by `recording_of`.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Give a folder of audio or of prepared audio.")
    candidates = [folder] if _is_prepared(folder) else sorted(folder.iterdir())
    prepared = [part for part in candidates if part.is_dir() and _is_prepared(part)]
    if not prepared:
        return _read_folder(folder, sample_rate=sample_rate)
    parts: dict[Split, list[Recording]] = {
        split: [
            clip
            for part in prepared
            for clip in (
                _map_shards(part, split, sample_rate=sample_rate)
                if _has_shards(part)
                else _read_manifest(part, split, sample_rate=sample_rate)
            )
        ]
        for split in SPLITS
    }
    for split, clips in parts.items():
        if not clips:
            raise ValueError(
                f"No usable clip in the split {split!r} of {folder}. Prepare more audio."
            )
    return Corpus(**parts)


def load_corpora(folders: Sequence[Path], *, sample_rate: int) -> Corpus:
    """`load_corpus` of several folders, together."""
    parts = [load_corpus(folder, sample_rate=sample_rate) for folder in folders]
    return Corpus(
        train=[clip for part in parts for clip in part.train],
        held_out=[clip for part in parts for clip in part.held_out],
    )


def recording_of(path: Path) -> str:
    """The recording of a file by its name: 17092-A.wav and 17092-B.wav are parts of one.

    Only letters denote parts: clip-01.wav and clip-02.wav are usually different recordings.
    """
    return re.sub(r"-[A-Za-z]$", "", path.with_suffix("").as_posix())


class SegmentSampler:
    """Draws batches of random segments; a batch is a function of the seed and its number."""

    def __init__(self, clips: list[Recording], *, length: int, batch_size: int, seed: int) -> None:
        self.clips, self.length, self.batch_size, self.seed = clips, length, batch_size, seed
        totals: dict[str, int] = {}
        for clip in clips:
            totals[clip.kind] = totals.get(clip.kind, 0) + len(clip.samples)
        weights = [len(clip.samples) / totals[clip.kind] ** 0.5 for clip in clips]
        self.ends = np.cumsum(weights) / np.sum(weights)

    def batch(self, number: int, *, part: int = 0, num_parts: int = 1) -> Tensor:
        """[batch_size, 1, length], float32, each at a random level.

        Args:
            part: with `num_parts`, selects the items of one process.
        """
        items = range(part, self.batch_size, num_parts)
        return torch.from_numpy(np.stack([self._segment(number, item) for item in items]))[:, None]

    def _segment(self, number: int, item: int) -> np.ndarray:
        random = np.random.default_rng([self.seed, number, item])
        index = int(np.searchsorted(self.ends, random.random(), side="right"))
        samples = self.clips[min(index, len(self.clips) - 1)].samples
        start = int(random.integers(max(1, len(samples) - self.length + 1)))
        piece = samples[start : start + self.length].astype(np.float32) / FULL_SCALE
        piece = np.pad(piece, (0, self.length - len(piece)))
        level = 10 ** (random.uniform(-12, 3) / 20)
        return piece * np.float32(min(level, 0.99 / max(np.abs(piece).max(), 1e-4)))


class _ShardSamples:
    """The samples of one example of shards, in mono, read lazily on slicing."""

    def __init__(self, shards: Shards, index: int, length: int) -> None:
        self.shards, self.index, self.length = shards, index, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, span: slice, /) -> np.ndarray:
        start, stop, _ = span.indices(self.length)
        samples = self.shards.read(self.index, "samples", start, stop)  # [C, n]
        return (samples[0] if len(samples) == 1 else samples.float().mean(0).short()).numpy()


def _map_shards(folder: Path, split: Split, *, sample_rate: int) -> Iterator[Recording]:
    shards = Shards(folder, split)
    lengths = shards.lengths("samples")
    if shards.streams["samples"].rate != sample_rate:
        raise ValueError(
            f"The samples in {folder} are at {shards.streams['samples'].rate} Hz, but the model "
            f"needs {sample_rate} Hz. Make the shards again at that rate."
        )
    for index, length in enumerate(lengths.tolist()):
        yield Recording(
            kind=folder.name, name=shards.ids[index], samples=_ShardSamples(shards, index, length)
        )


def _read_manifest(folder: Path, split: Split, *, sample_rate: int) -> Iterator[Recording]:
    for cut in tqdm(read_cuts(folder, split), desc=f"reading {folder.name}/{split}", unit="clip"):
        try:
            samples = read_cut_audio(cut, sample_rate=sample_rate, num_channels=1).samples[0]
        except ValueError as error:
            logger.warning("skipped: %s", error)
            continue
        yield Recording(kind=folder.name, name=cut.id, samples=_pcm(samples))


def _read_folder(folder: Path, *, sample_rate: int) -> Corpus:
    paths = find_audio(folder)
    if not paths:
        raise ValueError(f"No audio files found in {folder}.")
    groups: dict[str, list[Recording]] = {}
    for path in tqdm(paths, desc="reading audio", unit="file"):
        try:
            samples = read_audio(path, sample_rate=sample_rate, num_channels=1).samples[0]
        except ValueError as error:
            logger.warning("skipped: %s", error)
            continue
        relative = path.relative_to(folder)
        kind = relative.parts[0] if len(relative.parts) > 1 else "audio"
        clip = Recording(kind=kind, name=str(relative), samples=_pcm(samples))
        groups.setdefault(recording_of(relative), []).append(clip)
    if len(groups) < 2:
        raise ValueError(
            f"Found {len(groups)} usable recordings in {len(paths)} audio files of {folder}. At "
            "least two are needed, because one is held out."
        )
    chosen = choose_held_out(groups, seed=0, share=HELD_OUT_SHARE)
    return Corpus(
        train=[clip for name in groups if name not in chosen for clip in groups[name]],
        held_out=[clip for name in groups if name in chosen for clip in groups[name]],
    )


def _pcm(samples: Tensor) -> np.ndarray:
    """[N], float32 -> [N], int16"""
    scaled = (samples * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)
    return scaled.to(torch.int16).numpy()


def _has_shards(folder: Path) -> bool:
    return shard_path(folder, "train", 0).exists()


def _is_prepared(folder: Path) -> bool:
    has_manifest = (folder / "train.jsonl.gz").exists()
    return has_manifest or _has_shards(folder) or any((folder / "train").glob("cuts.*.jsonl*"))
