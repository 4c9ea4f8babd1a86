"""Pieces as files, some at a time, written in parallel by a recipe's processes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from corpora.clip_files import is_whole, write_clip
from corpora.music.fluidsynth import render_scores
from corpora.music.scores import Score
from corpora.music.simple import render_score
from corpora.signals import at_level


def write_pieces(
    paths: Sequence[Path], scores: Sequence[Score], *, sample_rate: int, soundfont: Path | None
) -> int:
    """Writes those pieces that are not there and whole; returns how many there are now.

    All are played if one is missing: what fluidsynth plays depends a little on what came before.

    Args:
        soundfont: what fluidsynth plays with; without one, our own plain tones.
    """
    missing = [
        not is_whole(path, seconds=score.seconds, sample_rate=sample_rate)
        for path, score in zip(paths, scores, strict=True)
    ]
    if not any(missing):
        return len(paths)
    if soundfont is None:
        pieces = [render_score(score, sample_rate=sample_rate) for score in scores]
    else:
        pieces = render_scores(scores, sample_rate=sample_rate, soundfont=soundfont)
    for path, score, piece, wanted in zip(paths, scores, pieces, missing, strict=True):
        if wanted:
            rng = np.random.default_rng([score.seed, score.number, 4])
            level = float(rng.uniform(-22, -14))
            samples = at_level(piece, decibels=level, fade=0.02, sample_rate=sample_rate)
            write_clip(path, samples, sample_rate)
    return len(paths)
