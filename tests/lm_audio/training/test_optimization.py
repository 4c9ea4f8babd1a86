"""Weights that decay, learning rates that rise and fall, averages that follow."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from lm_audio.networks.transformer import Transformer, TransformerConfig
from lm_audio.training.optimization import (
    EMA,
    Muon,
    adamw,
    language_model_optimizer,
    learning_rate_share,
    linear_weights,
    set_learning_rate,
)


def test_only_what_multiplies_decays_and_only_what_is_trained_is_changed() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 4), nn.Linear(4, 4))
    module[3].requires_grad_(False)
    optimizer = adamw(module, learning_rate=0.1, weight_decay=0.5)
    before = {name: weight.detach().clone() for name, weight in module.named_parameters()}
    for weight in module.parameters():
        weight.grad = torch.zeros_like(weight)  # so that nothing but decay changes them
    optimizer.step()
    for name, weight in module.named_parameters():
        decays = name in ("0.weight", "2.weight")
        assert torch.allclose(weight, before[name] * (0.95 if decays else 1.0)), name
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.95)}


def test_an_optimizer_step_is_that_of_the_formula() -> None:
    module = nn.Linear(3, 2, bias=False)
    optimizer = adamw(module, learning_rate=0.01, weight_decay=0.1)
    weight = module.weight.detach().double().clone()
    mean = square = torch.zeros_like(weight)
    random = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        gradient = torch.randn(2, 3, generator=random)
        module.weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        update = (mean / (1 - 0.9**step)) / ((square / (1 - 0.95**step)).sqrt() + 1e-8)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * update
        assert torch.allclose(module.weight.double(), weight, atol=1e-6)


def give_gradients(module: nn.Module, *, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.grad = torch.randn(weight.shape, generator=random)


def test_muon_makes_the_updates_of_matrices_orthogonal_and_leaves_the_rest_to_adamw() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(24, 16), nn.LayerNorm(16), nn.Embedding(5, 16))
    twin = deepcopy(module)
    common = {"learning_rate": 0.01, "weight_decay": 0.0}
    optimizer = Muon(module, linear_weights(module), **common)
    other = adamw(twin, **common)
    before = module[0].weight.detach().clone()
    for each in (module, twin):
        give_gradients(each, seed=1)
    optimizer.step()
    other.step()
    update = (before - module[0].weight.detach()) / (0.01 * 0.2 * math.sqrt(24))
    U, _, V = torch.linalg.svd(module[0].weight.grad, full_matrices=False)
    along = (U.T @ update @ V.T).diagonal()  # what it makes of each singular value
    assert along.min() > 0.6
    assert along.max() < 1.3
    assert torch.allclose(update, U @ along.diag() @ V, atol=0.05)
    names = [name for name, _ in module.named_parameters() if name != "0.weight"]
    for name in names:
        assert torch.equal(module.get_parameter(name), twin.get_parameter(name)), name


def test_muon_goes_on_from_what_it_saved() -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    resumed = deepcopy(whole)
    common = {"learning_rate": 0.01, "weight_decay": 0.1}
    ahead, first = (Muon(module, linear_weights(module), **common) for module in (whole, resumed))
    for step in range(4):
        if step == 2:
            saved = deepcopy(first.state_dict())
            first = Muon(resumed, linear_weights(resumed), **common)
            first.load_state_dict(saved)
        for module, optimizer in ((whole, ahead), (resumed, first)):
            give_gradients(module, seed=step)
            set_learning_rate(optimizer, 0.01 / (step + 1))
            optimizer.step()
    for mine, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_muon_takes_the_matrices_inside_blocks_and_what_is_trained() -> None:
    config = TransformerConfig(dim=16, num_layers=2, num_heads=2, hidden_dim=32)
    module = nn.ModuleList([nn.Linear(4, 16), Transformer(config)])
    frozen = linear_weights(module[1])[-1].requires_grad_(False)
    optimizer = language_model_optimizer("muon", module, learning_rate=0.1, weight_decay=0.1)
    groups = [group for group in optimizer.param_groups if group["part"] == "muon"]
    taken = {id(weight) for group in groups for weight in group["params"]}
    expected = {id(w) for w in linear_weights(module[1]) if w is not frozen}
    assert taken == expected
    everything = {id(w) for group in optimizer.param_groups for w in group["params"]}
    assert everything == {id(w) for w in module.parameters() if w is not frozen}


def test_the_learning_rate_rises_and_then_falls_as_a_cosine() -> None:
    def share(step: int) -> float:
        return learning_rate_share(step, steps=110, warmup_steps=10, schedule="cosine")

    assert [share(step) for step in range(10)] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert share(10) == 1.0
    assert share(60) == pytest.approx(0.55)  # half way, between 1 and 0.1
    assert share(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5)))
    assert share(110) == pytest.approx(0.1)
    assert share(500) == pytest.approx(0.1)
    assert share(109) > share(110)


def test_the_learning_rate_can_fall_as_an_inverse_root() -> None:
    def share(step: int) -> float:
        return learning_rate_share(step, steps=10, warmup_steps=100, schedule="inverse_sqrt")

    assert share(99) == 1.0
    assert share(100) == pytest.approx(1.0, abs=0.01)
    assert share(399) == pytest.approx(0.5)
    assert share(9_999) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "inverse_sqrt"])
def test_a_run_without_warm_up_begins_at_the_highest_rate(schedule: str) -> None:
    share = learning_rate_share(0, steps=10, warmup_steps=0, schedule=schedule)  # type: ignore[arg-type]
    assert share == 1.0


def test_the_learning_rate_of_all_groups_is_set() -> None:
    optimizer = adamw(nn.Linear(2, 2), learning_rate=1.0, weight_decay=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_an_average_is_that_of_the_closed_form() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(2.0)
    average = EMA(module, decay=0.9)
    values = [1.0, -3.0, 0.5, 4.0] * 30
    decays = [min(0.9, (1 + step) / (10 + step)) for step in range(len(values))]
    for step, value in enumerate(values):
        module.weight.data.fill_(value)
        average.update(step)
    # Each value counts by its own share and is forgotten by the decays of all later steps.
    expected = 2.0 * math.prod(decays) + sum(
        value * (1 - decays[step]) * math.prod(decays[step + 1 :])
        for step, value in enumerate(values)
    )
    with average.swapped():
        assert module.weight.item() == pytest.approx(expected, rel=1e-5)
    assert module.weight.item() == 4.0
    average.restart()
    with average.swapped():
        assert module.weight.item() == 4.0


def test_the_weights_come_back_even_after_an_error() -> None:
    module = nn.Linear(1, 1)
    average = EMA(module, decay=0.9)
    before = module.weight.item()
    module.weight.data += 1
    now = module.weight.item()

    def fail() -> None:
        with average.swapped():
            assert module.weight.item() == before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert module.weight.item() == now


def test_weights_that_are_not_trained_are_not_averaged() -> None:
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    average = EMA(module, decay=0.9)
    module.bias.data += 1
    now = module.bias.item()
    with average.swapped():
        assert module.bias.item() == now
