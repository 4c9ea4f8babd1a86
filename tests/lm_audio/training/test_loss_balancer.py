"""Losses pull at the output by their weights, whatever their own scale is."""

import pytest
import torch
from torch import Tensor

from lm_audio.training.loss_balancer import LossBalancer


def random(seed: int) -> Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))


def losses(output: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """Linear losses, so that their gradients are known: random(1) and scale * random(2)."""
    return {"first": (output * random(1)).sum(), "second": scale * (output * random(2)).sum()}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_shares_follow_the_weights_and_the_first_loss_gives_the_scale(scale: float) -> None:
    output = random(0).requires_grad_()
    gradient = LossBalancer({"first": 1.0, "second": 3.0}).gradient(losses(output, scale), output)
    a, b = random(1), random(2)
    expected = a.norm() * (0.25 * a / a.norm() + 0.75 * b / b.norm())
    torch.testing.assert_close(gradient, expected)


def test_a_loss_alone_keeps_its_gradient_and_others_may_join() -> None:
    balancer = LossBalancer({"first": 1.0, "second": 1.0})
    output = random(0).requires_grad_()
    alone = balancer.gradient({"first": losses(output)["first"]}, output)
    torch.testing.assert_close(alone, random(1))
    both = balancer.gradient(losses(output, 7.0), output)
    direction = random(1) / random(1).norm() + random(2) / random(2).norm()
    torch.testing.assert_close(both, 0.5 * random(1).norm() * direction)


def pull_after(scales: list[float]) -> Tensor:
    """The gradient where the second loss had these scales, one after the other."""
    balancer = LossBalancer({"first": 1.0, "second": 1.0}, decay=0.5)
    output = random(0).requires_grad_()
    for scale in scales:
        gradient = balancer.gradient(losses(output, scale), output)
    return gradient


def test_norms_are_means_over_the_latest_steps() -> None:
    mean = (0.25 * 4 + 0.5 * 2 + 1) / (0.25 + 0.5 + 1)
    second = random(1).norm() * random(2) / random(2).norm() / mean
    torch.testing.assert_close(pull_after([4.0, 2.0, 1.0]), 0.5 * random(1) + 0.5 * second)


def test_a_sudden_gradient_pulls_no_harder_than_its_share() -> None:
    torch.testing.assert_close(pull_after([1.0, 1.0, 1e4]), pull_after([1.0]))


def test_a_saved_state_goes_on_with_the_same_gradients() -> None:
    balancer, again = (LossBalancer({"first": 1.0, "second": 2.0}) for _ in range(2))
    output = random(0).requires_grad_()
    balancer.gradient(losses(output, 5.0), output)
    again.load_state_dict(balancer.state_dict())
    expected = balancer.gradient(losses(output, 1.0), output)
    assert torch.equal(again.gradient(losses(output, 1.0), output), expected)


def test_a_loss_without_a_gradient_is_left_out() -> None:
    output = random(0).requires_grad_()
    given = {**losses(output), "second": (0 * output).sum()}
    gradient = LossBalancer({"first": 1.0, "second": 1.0}).gradient(given, output)
    torch.testing.assert_close(gradient, 0.5 * random(1))


def test_wrong_names_and_weights_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected one or more positive weights"):
        LossBalancer({"first": 1.0, "second": 0.0})
    output = random(0).requires_grad_()
    with pytest.raises(
        ValueError, match=r"Unexpected losses \['third'\]\. Expected first and others"
    ):
        LossBalancer({"first": 1.0}).gradient({"third": output.sum()}, output)
