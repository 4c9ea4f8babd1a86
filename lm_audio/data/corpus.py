"""A folder of audio as random training segments, all of it in memory as 16-bit samples.

For corpora of some hours. Larger ones belong in shards that are read as a stream.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.audio_files import read_audio

logger = logging.getLogger(__name__)
SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


@dataclass(frozen=True, kw_only=True)
class Recording:
    kind: str
    name: str
    samples: np.ndarray  # [N], int16


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Clips that a model learns from, and others that it never hears."""

    train: list[Recording]
    held_out: list[Recording]


def load_corpus(folder: Path, *, sample_rate: int, held_out: float = 0.05) -> Corpus:
    """Reads all audio below `folder`, in mono; the first folder level is a clip's kind.

    Args:
        held_out: the share of clips to hold out, chosen by name. Names that differ only after
            their last hyphen stay together: datasets cut clips of one recording like that.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"No audio files were found below {folder}; give a folder that has some.")
    parts: dict[bool, list[Recording]] = {False: [], True: []}
    for path in tqdm(paths, desc="reading audio", unit="file"):
        try:
            samples = read_audio(path, sample_rate=sample_rate, num_channels=1).samples[0]
        except ValueError as error:
            logger.warning("skipped: %s", error)
            continue
        relative = path.relative_to(folder)
        pcm = (samples.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
        kind = relative.parts[0] if len(relative.parts) > 1 else "audio"
        clip = Recording(kind=kind, name=str(relative), samples=pcm)
        parts[_share(path.stem.rpartition("-")[0] or path.stem) < held_out].append(clip)
    if not parts[False]:
        raise ValueError(
            f"All {len(paths)} audio files below {folder} are bad or held out; give more of them."
        )
    return Corpus(train=parts[False], held_out=parts[True])


class SegmentSampler:
    """Draws batches of random segments; a kind is heard by the square root of its length."""

    def __init__(self, clips: list[Recording], *, length: int, seed: int) -> None:
        self.length = length
        self.random = np.random.default_rng(seed)
        self.kinds: dict[str, list[Recording]] = {}
        for clip in clips:
            self.kinds.setdefault(clip.kind, []).append(clip)
        lengths = {kind: _lengths(group) for kind, group in self.kinds.items()}
        self.clip_weights = {kind: sizes / sizes.sum() for kind, sizes in lengths.items()}
        totals = np.sqrt([sizes.sum() for sizes in lengths.values()])
        self.kind_weights = totals / totals.sum()

    def batch(self, size: int) -> Tensor:
        """[size, 1, length], float32, each at a random level."""
        return torch.from_numpy(np.stack([self._segment() for _ in range(size)]))[:, None]

    def _segment(self) -> np.ndarray:
        kind = list(self.kinds)[self.random.choice(len(self.kinds), p=self.kind_weights)]
        group = self.kinds[kind]
        clip = group[self.random.choice(len(group), p=self.clip_weights[kind])]
        start = self.random.integers(max(1, len(clip.samples) - self.length + 1))
        piece = clip.samples[start : start + self.length].astype(np.float32) / 32767
        piece = np.pad(piece, (0, self.length - len(piece)))
        level = 10 ** (self.random.uniform(-12, 3) / 20)
        return piece * min(level, 0.99 / max(np.abs(piece).max(), 1e-4))


def _lengths(group: list[Recording]) -> np.ndarray:
    return np.array([len(clip.samples) for clip in group], dtype=np.float64)


def _share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
