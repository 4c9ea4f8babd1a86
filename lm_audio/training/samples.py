"""Generates samples from a stage during training, for the log of the run.

Shapes: K codebooks, T frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lm_audio.data.batches import Crop
from lm_audio.data.shards import Conditions
from lm_audio.generation.token_stage import TokenStage
from lm_audio.generation.track import Track, unknown_values
from lm_audio.renderers.protocol import Renderer
from lm_audio.sampling import AnySampling
from lm_audio.signals import ACOUSTIC
from lm_audio.training.stage_batches import StageBatches
from lm_audio.training.tracking import Tracker

NUM_SAMPLES = 3
SAMPLE_SECONDS = 5.0  # longer samples take more time on a CPU than the steps between them


def num_sample_frames(stage: TokenStage) -> int:
    """The frames of a logged sample, limited to one window of the stage."""
    return min(stage.window_frames, round(SAMPLE_SECONDS * stage.frame_rate))


def first_conditions(given: Conditions, names: Sequence[str]) -> dict[str, Any]:
    """The conditions of an example by these names; of a list, such as captions, the first."""
    return {
        name: value[0] if isinstance(value, list) else value
        for name, value in given.items()
        if name in names and value
    }


def log_samples(
    stage: TokenStage,
    held_out: StageBatches,
    tracker: Tracker,
    *,
    step: int,
    renderer: Renderer,
    following: TokenStage | None = None,
) -> None:
    """Logs samples with the conditions and source tokens of held-out examples.

    Acoustic tokens are logged as audio, including those of an acoustic source. Other tokens are
    logged as text, and as audio if there is a following stage.

    Args:
        stage: the stage of `held_out` with its current weights.
        following: an acoustic stage whose source is this one.
    """
    shards, source = held_out.shards, held_out.source
    for index in range(min(NUM_SAMPLES, len(shards))):
        num_frames, known = num_sample_frames(stage), None
        conditions = first_conditions(shards.conditions[index], stage.conditions)
        if source is not None:
            num_frames = min(num_frames, int(shards.lengths(stage.token_kind)[index]))
            known = held_out.source_tokens(Crop(index=index, start=0, stop=num_frames))
            if known is None:
                continue
        tokens = sample_tokens(
            stage, num_frames=num_frames, seed=index, conditions=conditions, source=known
        )
        if stage.token_kind != ACOUSTIC:
            tracker.text(f"sample {index}", " ".join(map(str, tokens[0].tolist())), step=step)
            if following is None:
                continue
            num_frames = int(num_frames / stage.frame_rate * following.frame_rate)
            tokens = sample_tokens(
                following, num_frames=num_frames, seed=index, conditions=conditions, source=tokens
            )
        elif source is not None and source.token_kind == ACOUSTIC:
            assert known is not None
            tokens = torch.cat([known.to(tokens.device), tokens])
        samples = renderer.render(tokens.cpu())
        tracker.sound(f"sample {index}", samples, renderer.sample_rate, step=step)


@torch.inference_mode()
def sample_tokens(
    stage: TokenStage,
    *,
    num_frames: int,
    seed: int,
    conditions: Mapping[str, Any] | None = None,
    source: Tensor | None = None,
    prompt: Tensor | None = None,
    sampling: AnySampling | None = None,
) -> Tensor:
    """Tokens [K, T] of one item.

    Args:
        conditions: by name.
        source: tokens [K, T] of the stage whose tokens condition this one.
        prompt: [K, T], the first tokens.
        sampling: the stage's own by default.
    """
    sampling = sampling or stage.sampling
    tokens = unknown_values(stage.makes, num_frames, stage.device)
    if prompt is not None:
        tokens[:, : prompt.shape[1]] = prompt
    known = (
        Track(values=source.long(), seed=seed, sampling=sampling) if source is not None else None
    )
    track = Track(
        values=tokens, seed=seed, sampling=sampling, conditions=conditions or {}, source=known
    )
    batch = stage.new_batch()
    batch.add(track)
    while batch.step():
        pass
    return track.values
