"""Estimates are those of real tensors and of the step that is really taken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.shards import Shards
from lm_audio.generation.lm_stage import LMStage
from lm_audio.networks.token_lm import TokenLM
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.training.estimate import (
    StepCost,
    Weights,
    batch_cost,
    cost_table,
    count_weights,
    num_crops,
    print_estimate,
    step_cost,
)
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import EMA, adamw
from lm_audio.training.settings import LanguageModelSettings
from lm_audio.training.stage_batches import StageBatches
from lm_audio.training.text import own_text, t5_text

SHAPE = TransformerConfig(dim=64, num_layers=3, num_heads=2, hidden_dim=128, cross_attention=True)


def with_model(
    stage: LMStage, shape: TransformerConfig, text: Callable[[int], nn.Module]
) -> LMStage:
    """The stage with a model of another shape, and another text conditioner."""
    config = replace(stage.model.config, transformer=shape)
    conditioners = type(stage.conditioners)({"text": text(shape.dim)}, {"text": "cross"})
    return replace(stage, model=TokenLM(config), conditioners=conditioners, source=None)


def one_label(label: str) -> Callable[[int], nn.Module]:
    return lambda dim: LabelConditioner([label], dim)


def test_weights_are_those_of_the_model(duet_stages: Callable[..., list[LMStage]]) -> None:
    stage = duet_stages()[1]
    objective = StageObjective(stage)
    with torch.device("meta"):
        blank = duet_stages()[1]
    expected = sum(weight.numel() for weight in objective.parameters())
    weights = count_weights(stage)
    assert weights == count_weights(blank)
    assert (weights.trained, weights.frozen) == (expected, 0)
    block = sum(weight.numel() for weight in stage.model.transformer.blocks[0].parameters())
    assert weights.block == max(block, expected - block)


def test_a_t5_is_counted_once_and_never_as_trained(tiny_t5: Path, audiogen_stage: LMStage) -> None:
    make = t5_text(tiny_t5)
    text, other = make(32), make(32)
    conditioners = type(audiogen_stage.conditioners)(
        {"text": text, "other": other}, {"text": "cross", "other": "cross"}
    )
    stage = replace(audiogen_stage, conditioners=conditioners)
    weights = count_weights(stage)
    assert weights.frozen == sum(w.numel() for w in text.encoder.model.parameters())
    model = sum(w.numel() for w in stage.model.parameters())
    assert weights.trained == model + 2 * sum(w.numel() for w in text.parameters())


def test_memory_is_that_of_the_tensors_of_a_run(duet_stages: Callable[..., list[LMStage]]) -> None:
    objective = StageObjective(duet_stages()[1])
    optimizer = adamw(objective, learning_rate=0.1, weight_decay=0.1)
    average = EMA(objective, decay=0.9)
    for weight in objective.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    moments = [
        value
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    weights = list(objective.parameters())
    tensors = [*weights, *(weight.grad for weight in weights), *moments, *average._average]
    expected = sum(tensor.nbytes for tensor in tensors)
    counted = count_weights(duet_stages()[1])
    assert counted.memory(num_gpus=1, sharded=False) == expected
    assert counted.memory(num_gpus=1, sharded=True) == expected
    assert counted.memory(num_gpus=2, sharded=False) == expected * 6 / 5


def test_shares_shrink_down_to_what_is_gathered() -> None:
    weights = Weights(trained=1000, frozen=7, block=100)
    shared = [weights.memory(num_gpus=2**n, sharded=True) for n in range(1, 11)]
    assert shared == sorted(shared, reverse=True)
    assert shared[0] == 4 * (2500 + 200 + 7)
    assert shared[-1] == pytest.approx(4 * (200 + 7), rel=0.03)


@pytest.mark.parametrize("own_words", [False, True])
def test_operations_are_those_of_a_real_step(
    own_words: bool,
    audiogen_stage: LMStage,
    make_shards: Callable[..., Shards],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of attention, which are not counted on a CPU, are added by their formula."""
    shards = make_shards([150] * 12)
    caption = " ".join(["rain"] * 40)
    for number in range(len(shards)):
        shards.conditions[number] = {"text": caption}
    reader = TransformerConfig(dim=64, num_layers=2, num_heads=2, hidden_dim=64, causal=False)
    text = own_text(shards, reader, vocab_size=400) if own_words else one_label(caption)
    stage = with_model(audiogen_stage, SHAPE, text)
    batch = StageBatches(stage, shards, tokens=2400, seed=0, dropout=None)[0]
    objective = StageObjective(stage).train()
    with torch.no_grad():
        fused = stage.conditioners(batch.conditions)
    assert fused.cross is not None
    L = fused.cross.mask.shape[1]
    monkeypatch.setattr("lm_audio.training.estimate.TEXT_TOKENS", L)
    with FlopCounterMode(display=False) as counter:
        objective(batch).sum().backward()
    B, _, S = batch.inputs.shape
    assert (B, S) == (6, 103)
    attention = 2 * 2 * B * 64 * (3 * S * S + 3 * S * L) * 3.5  # 2 products, 5 on the way back
    if own_words:
        attention += 2 * 2 * B * 64 * 2 * L * L * 3.5
    counted = counter.get_total_flops() + attention
    cost = batch_cost(stage, tokens=2400, precision="float32")
    assert num_crops(stage, tokens=2400) == B
    assert cost.flops == pytest.approx(counted, rel=0.03)


def test_operations_are_about_six_for_each_weight_and_step(audiogen_stage: LMStage) -> None:
    shape = replace(SHAPE, dim=512, num_heads=8, hidden_dim=2048, num_layers=4)
    with torch.device("meta"):
        stage = with_model(audiogen_stage, shape, one_label("rain"))
    model = stage.model
    size = sum(weight.numel() for weight in model.parameters()) - model.embedding.weight.numel()
    cost = batch_cost(stage, tokens=4000)
    steps = stage.pattern.layout(stage.window_frames).num_steps
    rows = num_crops(stage, tokens=4000)
    assert 6 * size * rows * steps == pytest.approx(cost.flops, rel=0.12)
    again = batch_cost(stage, tokens=4000, recompute=True)
    assert cost.flops * 1.3 < again.flops < cost.flops * 1.34
    assert again.activations < cost.activations / 2
    twice = batch_cost(stage, tokens=8000)
    assert twice.flops == pytest.approx(2 * cost.flops, rel=0.01)
    assert num_crops(stage, tokens=8000) == 2 * rows


def test_activations_are_those_that_a_real_step_keeps(
    audiogen_stage: LMStage, make_shards: Callable[..., Shards]
) -> None:
    batch = StageBatches(
        audiogen_stage, make_shards([150] * 12), tokens=2400, seed=0, dropout=None
    )[0]
    objective = StageObjective(audiogen_stage).train()
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x  # held, so that no place is used twice
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        objective(batch)
    for weight in objective.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    expected = sum(x.untyped_storage().nbytes() for x in kept.values())
    cost = batch_cost(audiogen_stage, tokens=2400, precision="float32")
    assert cost.activations == pytest.approx(expected, rel=0.1)


def test_a_prefix_counts(audiolm_stages: list[LMStage]) -> None:
    semantic, coarse, _ = audiolm_stages
    alone = replace(coarse, source=None, conditioners=type(coarse.conditioners)({}, {}))
    cost = batch_cost(coarse, tokens=2000, source=semantic)
    less = batch_cost(alone, tokens=2000)
    # 10 s: 500 frames of 2 codebooks, after 200 semantic tokens.
    assert coarse.pattern.layout(coarse.window_frames).num_steps == 1000
    assert num_crops(coarse, tokens=2000) == 2
    assert cost.flops > 1.15 * less.flops


def test_an_estimate_names_what_fits(
    duet_stages: Callable[..., list[LMStage]], capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):
        source, stage = duet_stages()
        big = replace(SHAPE, dim=8192, num_layers=12, num_heads=64, hidden_dim=32768)
        config = replace(stage.model.config, transformer=big)
        stage = replace(stage, model=TokenLM(config))
    settings = LanguageModelSettings(out=Path("x"), tokens_per_batch=800, steps=7200)
    print_estimate(stage, settings, source=source)
    lines = capsys.readouterr().out.splitlines()
    size = sum(w.numel() for w in StageObjective(stage).parameters()) / 1e6
    assert f"acoustic: {size:,.1f} million weights are trained." in lines
    assert "7,200 steps" in "\n".join(lines)
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    assert [int(row[0]) for row in table] == [2**n for n in range(9)]
    assert [row[1] for row in table[:2]] == ["800", "1,600"]
    fits = [row[-1] for row in table]
    assert fits[:2] == ["no", "no"]
    assert fits[-1] == "FSDP"
    for row in table:
        assert (row[-1] == "no") == (float(row[4].replace(",", "")) > 72)


def test_an_mlp_costs_what_its_products_do() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100, 400, bias=False), nn.ReLU(), nn.Linear(400, 1))
    cost = step_cost(model, lambda: model(torch.zeros(8, 100)).sum())
    # Two a weight forwards, two for its gradient; two more for the gradient between the layers.
    assert cost.flops == 8 * (4 * 100 * 400 + 4 * 400 + 2 * 400)
    assert cost.activations == 8 * 4 * (100 + 400)  # both inputs; ReLU keeps its result


def test_the_table_shares_a_batch_among_gpus() -> None:
    with torch.device("meta"):
        model = nn.Linear(10**5, 10**4, bias=False)
        frozen = nn.Linear(10, 10).requires_grad_(False)
    cost = StepCost(flops=10**15, activations=10**9)
    modules = nn.ModuleList([model, frozen])
    lines = cost_table(modules, cost, batch_size=4, steps=1000).splitlines()
    assert lines[0].startswith("1000.0 M parameters")
    assert [line.split("|")[1:4] for line in lines[4:]] == [
        [" 1 ", " 4 ", " 24.00 "],
        [" 2 ", " 2 ", " 26.00 "],
        [" 4 ", " 1 ", " 25.00 "],
    ]
    assert float(lines[4].split("|")[4]) == round(4e18 / (0.4 * 989e12) / 3600, 2)
