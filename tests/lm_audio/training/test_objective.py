"""The loss is the likelihood that generation gives the same tokens, and padding changes nothing."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.data.shards import Shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.track import Track
from lm_audio.patterns import Pattern, coarse_first, delayed, flattened, unrolled
from lm_audio.sampling import Sampling
from lm_audio.training.objective import StageObjective
from lm_audio.training.stage_batches import Dropout, StageBatches, TrainingBatch

MakeShards = Callable[..., Shards]
CASES = ["duet semantic", "duet acoustic", "semantic", "coarse", "fine", "audiogen"]


@pytest.fixture
def chosen(
    request: pytest.FixtureRequest,
    duet_stages: Callable[..., list[LMStage]],
    audiolm_stages: list[LMStage],
    audiogen_stage: LMStage,
) -> tuple[LMStage, LMStage | None]:
    """A stage with weights that tell tokens apart, and its source."""
    duet = duet_stages()
    semantic, coarse, fine = audiolm_stages
    stage, source = {
        "duet semantic": (duet[0], None),
        "duet acoustic": (duet[1], duet[0]),
        "semantic": (semantic, None),
        "coarse": (coarse, semantic),
        "fine": (fine, coarse),
        "audiogen": (audiogen_stage, None),
    }[request.param]
    for weight in [*stage.model.parameters(), *stage.conditioners.parameters()]:
        weight.data *= 2.5
    return stage, source


def batches_of(stage: LMStage, source: LMStage | None, shards: Shards) -> StageBatches:
    return StageBatches(stage, shards, source=source, tokens=3000, seed=0, dropout=None)


def one_row(batch: TrainingBatch, b: int) -> TrainingBatch:
    """A row as if it were alone, without padding."""
    S = int((batch.codebook[b] >= 0).any(dim=0).nonzero().max()) + 1
    return replace(
        batch,
        inputs=batch.inputs[b : b + 1, :, :S],
        targets=batch.targets[b : b + 1, :, :S],
        codebook=batch.codebook[b : b + 1, :, :S],
        frames=batch.frames[b : b + 1, :S],
        conditions={name: values[b : b + 1] for name, values in batch.conditions.items()},
    )


@pytest.mark.parametrize("chosen", CASES, indirect=True)
def test_the_loss_is_the_likelihood_of_the_same_tokens(
    chosen: tuple[LMStage, LMStage | None], make_shards: MakeShards
) -> None:
    stage, source = chosen
    batches = batches_of(stage, source, make_shards([40, 90, 64]))
    objective, batch = StageObjective(stage).eval(), batches[0]
    for b, crop in enumerate(batches.crops[0]):
        assert crop.start == 0, "the clips are whole"
        row = one_row(batch, b)
        tokens = stage.pattern.layout(stage_frames(stage, row)).revert(row.targets)[0]
        known = None
        if source is not None:
            streams = batches.shards[crop.index].streams
            given = streams[source.token_kind].long()[: source.num_codebooks]
            known = Track(values=given, seed=0, sampling=Sampling())
        values = {name: row.conditions[name][0] for name in stage.conditions}
        run = Track(values=tokens, seed=0, sampling=Sampling(), conditions=values, source=known)
        expected = stage.likelihood(run, 0, tokens.shape[1])
        with torch.no_grad():
            mean = float(objective(row).sum() / row.counts(stage.num_codebooks).sum())
        assert mean == pytest.approx(-expected, abs=1e-4)
        assert abs(mean - torch.log(torch.tensor(16.0)).item()) > 0.05, "the weights are too dull"


def stage_frames(stage: LMStage, row: TrainingBatch) -> int:
    return int(row.counts(stage.num_codebooks)[0])


PATTERNS = [
    delayed([0, 2, 1, 3]),
    unrolled([0, 1, 1, 2], [0, 0, 0, 1]),
    coarse_first(4, delays=[0, 1, 2]),
    flattened(4, codebook_size=None),
    flattened(4, codebook_size=4, group_size=2),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.kind)
def test_each_codebook_has_the_cross_entropy_of_its_own_tokens(
    pattern: Pattern, audiogen_stage: LMStage, make_shards: MakeShards
) -> None:
    stage = replace(audiogen_stage, pattern=pattern)
    shared = pattern.codebook_size is not None
    if shared:  # 4 codebooks of 4 tokens in the one stream of a new model
        config = replace(stage.model.config, num_streams=1)
        stage = replace(stage, model=type(stage.model)(config).eval())
    shards = make_shards([30, 41])
    if shared:
        shards.streams["acoustic"] = replace(shards.streams["acoustic"], num_tokens=4)
        read = shards.read
        shards.read = lambda *span: read(*span) % 4  # type: ignore[method-assign]
    batches = batches_of(stage, None, shards)
    batch, objective = batches[0], StageObjective(stage)
    fused = stage.conditioners(batch.conditions)
    logits = stage.model(batch.inputs, fused=fused)
    expected = torch.zeros(4)
    for b, crop in enumerate(batches.crops[0]):
        tokens = shards.read(crop.index, "acoustic", crop.start, crop.stop).long()  # [K, T]
        layout = pattern.layout(crop.length)
        for k in range(4):
            own = logits[b, layout.stream[k], layout.step[k]]  # [T, V]
            own = own[:, 4 * k : 4 * k + 4] if shared else own
            expected[k] += F.cross_entropy(own, tokens[k], reduction="sum")
    assert torch.allclose(objective(batch), expected, rtol=1e-5)
    assert batch.counts(4).tolist() == [71] * 4


@pytest.mark.parametrize("chosen", CASES, indirect=True)
def test_padding_changes_neither_losses_nor_gradients(
    chosen: tuple[LMStage, LMStage | None], make_shards: MakeShards
) -> None:
    stage, source = chosen
    batch = batches_of(stage, source, make_shards([40, 90, 64, 20]))[0]
    objective = StageObjective(stage)

    def learn(batches: list[TrainingBatch]) -> tuple[Tensor, list[Tensor]]:
        objective.zero_grad()
        losses = torch.stack([objective(batch) for batch in batches]).sum(dim=0)
        losses.sum().backward()
        return losses, [weight.grad.clone() for weight in objective.parameters()]

    together, gradients = learn([batch])
    alone, expected = learn([one_row(batch, b) for b in range(len(batch.inputs))])
    assert len(batch.inputs) == 4
    assert torch.allclose(together, alone, rtol=1e-5)
    largest = max(float(right.abs().max()) for right in expected)
    for found, right in zip(gradients, expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-3, atol=1e-5 * largest)


def test_every_weight_has_a_gradient_whatever_was_forgotten(
    duet_stages: Callable[..., list[LMStage]], make_shards: MakeShards
) -> None:
    source, stage = duet_stages()
    dropout = Dropout(joint=1.0, each={"semantic": 1.0})
    batches = StageBatches(
        stage, make_shards([50]), source=source, tokens=400, seed=0, dropout=dropout
    )
    objective = StageObjective(stage)
    objective(batches[0]).sum().backward()
    assert all(weight.grad is not None for weight in objective.parameters())
