"""Stages memorise one small batch, and greedy generation gives its tokens back exactly."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from lm_audio.data.shards import Shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.sampling import Sampling
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import adamw, set_learning_rate
from lm_audio.training.samples import sample_tokens
from lm_audio.training.stage_batches import StageBatches

LENGTHS = [24, 30, 28]


def memorise(stage: LMStage, batches: StageBatches, *, steps: int) -> float:
    """Trains on the only batch there is; returns the last mean loss."""
    objective = StageObjective(stage).train()
    optimizer = adamw(objective, learning_rate=0.01, weight_decay=0.0)
    batch = batches[0]
    num_targets = batch.counts(stage.num_codebooks).sum()
    for step in range(steps):
        set_learning_rate(optimizer, 0.01 * min(1.0, (step + 1) / 5) * (1 - step / steps))
        loss = objective(batch).sum() / num_targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    objective.eval()
    return loss.item()


def check_memorised(
    stage: LMStage, source: LMStage | None, shards: Shards, *, steps: int, names: Sequence[str] = ()
) -> None:
    batches = StageBatches(stage, shards, source=source, tokens=4000, seed=0, dropout=None)
    assert len(batches) == 1
    # Without a source nothing tells which clip begins.
    num_targets = float(batches[0].counts(stage.num_codebooks).sum())
    least = 0.0 if source is not None else len(shards) * math.log(len(shards)) / num_targets
    assert memorise(stage, batches, steps=steps) < least + 0.01
    for index in range(len(shards)):
        streams, conditions = shards[index].streams, shards.conditions[index]
        first = stage.first_codebook
        expected = streams[stage.token_kind].long()[first : first + stage.num_codebooks]
        if stage.deduplicated:
            expected = torch.unique_consecutive(expected, dim=1)
        given = None if source is None else streams[source.token_kind][: source.num_codebooks]
        tokens = sample_tokens(
            stage,
            num_frames=expected.shape[1],
            seed=0,
            conditions={name: conditions[name] for name in names},
            source=given,
            prompt=None if names or source is not None else expected[:, :1],
            sampling=Sampling(temperature=0.0, guidance_scale=1.0),
        )
        assert torch.equal(tokens, expected)


def test_the_acoustic_stage_memorises_a_batch(
    make_shards: Callable[..., Shards], duet_stages: Callable[..., list[LMStage]]
) -> None:
    source, stage = duet_stages()
    shards = make_shards(LENGTHS)
    for number, conditions in enumerate(shards.conditions):
        shards.conditions[number] = {"text": conditions["label"]}
    check_memorised(stage, source, shards, steps=250, names=["text"])


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_stage_of_audiolm_memorises_a_batch(
    index: int, make_shards: Callable[..., Shards], audiolm_stages: list[LMStage]
) -> None:
    source = audiolm_stages[index - 1] if index else None
    check_memorised(audiolm_stages[index], source, make_shards(LENGTHS), steps=200)


def test_what_was_not_learned_is_not_reproduced(
    make_shards: Callable[..., Shards], audiolm_stages: list[LMStage]
) -> None:
    with pytest.raises(AssertionError):
        check_memorised(audiolm_stages[0], None, make_shards(LENGTHS), steps=1)
