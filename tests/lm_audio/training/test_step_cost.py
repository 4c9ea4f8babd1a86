"""Costs are those of a closed form; counting them takes no memory."""

import torch
from torch import nn

from lm_audio.training.step_cost import StepCost, cost_table, step_cost


def test_an_mlp_costs_what_its_products_do() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100, 400, bias=False), nn.ReLU(), nn.Linear(400, 1))
        x = torch.zeros(8, 100)
    cost = step_cost([model], lambda: model(x).sum(), items=8)
    assert cost.num_parameters == 100 * 400 + 400 + 1
    # Two a weight forwards, two for its gradient; two more for the gradient between the layers.
    assert cost.flops == 4 * 100 * 400 + 4 * 400 + 2 * 400
    assert cost.activations == 4 * (100 + 400)  # both inputs; ReLU keeps its result


def test_frozen_weights_are_no_parameters() -> None:
    with torch.device("meta"):
        model, head = nn.Linear(10, 10).requires_grad_(False), nn.Linear(10, 1)
        x = torch.zeros(1, 10)
    assert step_cost([model, head], lambda: head(model(x)).sum(), items=1).num_parameters == 11


def test_the_table_shares_a_batch_among_gpus() -> None:
    cost = StepCost(num_parameters=10**9, flops=10**15, activations=10**9)
    lines = cost_table(cost, batch_size=4, steps=1000).splitlines()
    assert lines[0].startswith("1000.0 M parameters, 20.00 GB")
    assert [line.split("|")[1:4] for line in lines[4:]] == [
        [" 1 ", " 4 ", " 24.00 "],
        [" 2 ", " 2 ", " 22.00 "],
        [" 4 ", " 1 ", " 21.00 "],
    ]
    assert float(lines[4].split("|")[4]) == round(4e18 / (0.4 * 989e12) / 3600, 2)
