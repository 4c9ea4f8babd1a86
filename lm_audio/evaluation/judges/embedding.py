"""Audio embeddings: the protocol, and a baseline without weights.

Shapes: B batch, N samples, W windows, n vectors, D width.
"""

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from audio_tokenizers.spectra import mel_filterbank
from lm_audio.evaluation.clips import ClipFile


class AudioEmbedding(Protocol):
    """Turns audio into vectors."""

    @property
    def name(self) -> str:
        """The name of the network and its weights, for reports."""

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, samples: Tensor) -> Tensor:
        """The vectors [n, D] of samples [B, N], float32: one per window of each row."""


def embed_clips(embedding: AudioEmbedding, clips: Iterable[ClipFile]) -> list[Tensor]:
    """The vectors [n, D] of the windows of each clip, float32 on the CPU."""
    return [embedding(clip.audio(embedding.sample_rate).samples).float().cpu() for clip in clips]


def clip_means(vectors: Iterable[Tensor]) -> Tensor:
    """One vector per clip, the mean over its windows: [clips, D]."""
    return torch.stack([windows.mean(dim=0) for windows in vectors])


def cut_windows(samples: Tensor, *, length: int, hop: int) -> Tensor:
    """Samples [B, N] as full windows [B, W, length]; a single short one is zero-padded."""
    missing = length - samples.shape[1]
    if missing > 0:
        samples = torch.nn.functional.pad(samples, (0, missing))
    return samples.unfold(1, length, hop)


class LogMelStatistics:
    """Mean and deviation of each log-mel band over windows of a second, [n, 2 * bands].

    A baseline without weights: it measures timbre and level, not content.
    """

    name = "log-mel statistics (32 bands, 1 s windows, no weights)"
    sample_rate = 16_000

    def __init__(self, num_mels: int = 32) -> None:
        self._bank = mel_filterbank(num_mels=num_mels, num_bins=256, sample_rate=self.sample_rate)

    def __call__(self, samples: Tensor) -> Tensor:
        windows = cut_windows(samples, length=self.sample_rate, hop=self.sample_rate // 2)
        spectrum = torch.stft(
            windows.flatten(0, 1), 512, 256, window=torch.hann_window(512), return_complex=True
        )  # [B * W, bins, frames]
        mels = (self._bank @ spectrum[:, :-1].abs() + math.exp(-7)).log()
        return torch.cat([mels.mean(dim=2), mels.std(dim=2)], dim=1)
