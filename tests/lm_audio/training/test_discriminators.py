"""The discriminator tells pictures of levels apart, and its losses are those of the papers."""

import pytest
import torch
from torch import Tensor

from lm_audio.training.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)

TINY = DiscriminatorConfig(widths=(4, 8, 8))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def judgement(*logits: float, features: float = 1.0) -> Judgement:
    return Judgement(logits=torch.tensor([logits]), features=[torch.full((1, 4), features)])


def judged(*features: Tensor) -> Judgement:
    return Judgement(logits=torch.zeros(1, 1), features=list(features))


def test_a_picture_is_judged_in_patches_by_all_layers() -> None:
    found = Discriminator(TINY)(noise(2, 32, 40))
    assert [tuple(f.shape) for f in found.features] == [
        (2, 4, 32, 20),
        (2, 8, 16, 10),
        (2, 8, 16, 10),
    ]
    assert found.logits.shape == (2, 160)
    assert found.logits.dtype == torch.float32


def test_a_change_is_seen_by_the_patches_around_it_alone() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    levels = noise(1, 64, 40)
    changed = levels.clone()
    changed[:, 32, 20] += 1
    before, after = (discriminator(x).logits.unflatten(1, (32, 10)) for x in (levels, changed))
    seen = (before != after)[0].nonzero()
    assert seen[:, 0].min() >= 16 - 4
    assert seen[:, 0].max() <= 16 + 4
    assert len(seen) > 0


def test_the_discriminator_knows_which_band_it_looks_at() -> None:
    torch.manual_seed(0)
    logits = Discriminator(TINY)(torch.zeros(1, 32, 40)).logits.unflatten(1, (16, 10))
    inside = logits[0, 8, 3:-3]  # away from the edges
    assert inside.diff().abs().min() > 1e-6


def test_losses_are_hinges() -> None:
    real, fake = judgement(2.0, 0.5), judgement(-3.0, 0.25)
    assert discriminator_loss(real, fake).item() == pytest.approx(0.25 + 0.625)
    assert adversarial_loss(fake).item() == pytest.approx((4 + 0.75) / 2)
    assert discriminator_loss(judgement(1.0), judgement(-1.0)) == 0
    assert adversarial_loss(judgement(1.5)) == 0


def test_the_distance_of_features_is_relative_to_the_real_ones() -> None:
    real = judged(torch.full((1, 4), 2.0), torch.full((1, 6), 10.0))
    fake = judged(torch.full((1, 4), 3.0), torch.full((1, 6), 5.0))
    assert feature_distance(real, fake).item() == pytest.approx((1 / 2 + 5 / 10) / 2)
    assert feature_distance(real, real) == 0


def test_only_the_generator_learns_from_the_distance_of_features() -> None:
    real, fake = noise(50).requires_grad_(), noise(50, seed=1).requires_grad_()
    feature_distance(judged(real), judged(fake)).backward()
    assert real.grad is None
    assert fake.grad is not None
    expected = (fake - real).detach().sign() / 50 / real.detach().abs().mean()
    torch.testing.assert_close(fake.grad, expected)


def test_all_levels_learn_from_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    levels = noise(2, 32, 40).requires_grad_()
    real, fake = discriminator(noise(2, 32, 40, seed=3)), discriminator(levels)
    for loss in (adversarial_loss(fake), feature_distance(real, fake)):
        (gradient,) = torch.autograd.grad(loss, levels, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() > 0.9 * gradient.numel()


def test_rough_and_smooth_levels_are_told_apart_within_a_few_steps() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-2)
    smooth, losses = torch.full((2, 32, 40), -2.0), []
    for step in range(80):
        rough = smooth + 0.5 * noise(2, 32, 40, seed=step)
        loss = discriminator_loss(discriminator(rough), discriminator(smooth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[40:]) < 0.3 * losses[0]


def test_a_discriminator_of_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the widths of at least 2 layers, got \(8,\)"):
        DiscriminatorConfig(widths=(8,))
