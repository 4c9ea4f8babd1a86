"""Tokens that a stage makes while it learns: alone, or after known tokens of its source.

Shapes: K codebooks, T frames.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lm_audio.generation.lm_stage import Stage
from lm_audio.generation.track import Track, unknown_values
from lm_audio.sampling import Sampling

HEARD_SECONDS = 5.0  # of a sample; on a CPU more takes longer than the steps between


def heard_frames(stage: Stage) -> int:
    """How long a sample of a stage is: no longer than what it sees at once."""
    return min(stage.context, round(HEARD_SECONDS * stage.frame_rate))


@torch.inference_mode()
def sample_tokens(
    stage: Stage,
    *,
    num_frames: int,
    seed: int,
    values: Mapping[str, Any] | None = None,
    source: Tensor | None = None,
    prompt: Tensor | None = None,
    sampling: Sampling | None = None,
) -> Tensor:
    """Tokens [K, T] of one item.

    Args:
        values: what conditions it, by name.
        source: tokens [K, T] of the stage whose tokens condition this one.
        prompt: [K, T], how it begins.
        sampling: that of the stage by default.
    """
    sampling = sampling or stage.sampling
    tokens = unknown_values(stage.makes, num_frames, stage.device)
    if prompt is not None:
        tokens[:, : prompt.shape[1]] = prompt
    known = (
        Track(values=source.long(), seed=seed, sampling=sampling) if source is not None else None
    )
    track = Track(
        values=tokens, seed=seed, sampling=sampling, conditions=values or {}, source=known
    )
    batch = stage.new_batch()
    batch.add(track)
    while batch.step():
        pass
    return track.values
