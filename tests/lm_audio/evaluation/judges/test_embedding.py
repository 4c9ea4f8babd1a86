"""Embeddings that need no weights, and the windows that all of them see."""

from collections.abc import Callable
from pathlib import Path

import torch

from lm_audio.evaluation.clips import read_clips
from lm_audio.evaluation.judges.embedding import (
    LogMelStatistics,
    clip_means,
    cut_windows,
    embed_clips,
)


def test_windows_are_whole_and_a_short_clip_is_one() -> None:
    samples = torch.arange(20.0).view(2, 10)
    windows = cut_windows(samples, length=4, hop=3)
    assert windows.shape == (2, 3, 4)
    assert windows[1, 2].tolist() == [16, 17, 18, 19]
    short = cut_windows(samples[:, :3], length=4, hop=3)
    assert short.tolist() == [[[0, 1, 2, 0]], [[10, 11, 12, 0]]]


def test_clips_of_any_rate_and_length_become_vectors(
    write_noise: Callable[..., Path], tmp_path: Path
) -> None:
    write_noise("a.wav", seconds=2.0)
    write_noise("b.wav", seconds=0.3)
    vectors = embed_clips(LogMelStatistics(), read_clips(tmp_path))
    assert [list(x.shape) for x in vectors] == [[3, 64], [1, 64]]
    assert clip_means(vectors).shape == (2, 64)
    assert torch.equal(clip_means(vectors)[1], vectors[1][0])


def test_louder_sound_moves_the_means_alone() -> None:
    samples = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    quiet, loud = LogMelStatistics()(samples), LogMelStatistics()(10 * samples)
    assert (loud - quiet)[0, :32].min() > 2
    assert (loud - quiet)[0, 32:].abs().max() < 0.05
