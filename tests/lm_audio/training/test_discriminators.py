"""The discriminator tells pictures of levels apart, and its losses are those of the papers."""

import math

import pytest
import torch
from torch import Tensor

from lm_audio.training.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    Judgement,
    adversarial_loss,
    discriminator_loss,
    feature_score,
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
    assert adversarial_loss([fake]).item() == pytest.approx((4 + 0.75) / 2)
    assert adversarial_loss([fake, real]).item() == pytest.approx(((4 + 0.75) / 2 + 0.25) / 2)
    assert discriminator_loss(judgement(1.0), judgement(-1.0)) == 0
    assert adversarial_loss([judgement(1.5)]) == 0


def test_the_score_of_one_answer_is_its_distance_relative_to_the_real_features() -> None:
    real = judged(torch.full((1, 4), 2.0), torch.full((1, 6), 10.0))
    fake = judged(torch.full((1, 4), 3.0), torch.full((1, 6), 5.0))
    assert feature_score(real, [fake]).item() == pytest.approx((1 / 2 + 5 / 10) / 2)
    assert feature_score(real, [fake, fake]) == feature_score(real, [fake])
    assert feature_score(real, [real, real]) == 0


def test_of_more_answers_half_of_their_mean_distance_is_taken_off() -> None:
    real = judged(torch.full((1, 4), 2.0))
    fakes = [judged(torch.full((1, 4), value)) for value in (1.0, 3.0, 6.0)]
    from_real, from_each_other = (1 + 1 + 4) / 3, (2 + 5 + 3) / 3
    expected = (from_real - 0.5 * from_each_other) / 2
    assert feature_score(real, fakes).item() == pytest.approx(expected)


def test_the_score_is_smallest_for_answers_that_vary_as_the_truth_does() -> None:
    real, one, other = (noise(200_000, seed=seed) for seed in range(3))
    spreads = [0.0, 0.5, 1.0, 1.5, 2.0]
    scores, distances = [], []
    for spread in spreads:
        fakes = [judged(spread * one), judged(spread * other)]
        scores.append(feature_score(judged(real), fakes).item())
        distances.append(feature_score(judged(real), fakes[:1]).item())
        # Of Gaussians, relative to the mean magnitude of the real ones.
        expected = math.sqrt(1 + spread**2) - spread / math.sqrt(2)
        assert scores[-1] == pytest.approx(expected, abs=0.01)
    assert min(scores) == scores[2]
    assert min(distances) == distances[0]  # a distance alone prefers no variation


def test_features_of_the_real_scale_but_draw_no_gradient_through_the_scale() -> None:
    real = noise(50).requires_grad_()
    fake = noise(50, seed=1)
    feature_score(judged(real), [judged(fake)]).backward()
    expected = (real - fake).detach().sign() / 50 / real.detach().abs().mean()
    assert real.grad is not None
    torch.testing.assert_close(real.grad, expected)


def test_levels_and_noisiness_both_learn_from_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    levels = noise(2, 32, 40).requires_grad_()
    noisiness = torch.full((2, 32, 40), 0.5, requires_grad=True)
    answers = [levels + noisiness * noise(32, 40, seed=seed) for seed in (1, 2)]
    real = discriminator(noise(2, 32, 40, seed=3))
    fakes = [discriminator(answer) for answer in answers]
    for loss in (adversarial_loss(fakes), feature_score(real, fakes)):
        of_levels, of_noisiness = torch.autograd.grad(loss, (levels, noisiness), retain_graph=True)
        for gradient in (of_levels, of_noisiness):
            assert gradient.isfinite().all()
            assert gradient.count_nonzero() > 0.9 * gradient.numel()


def test_rough_and_smooth_levels_are_told_apart_within_a_few_steps() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-2)
    smooth, losses = torch.full((2, 32, 40), -2.0), []
    for step in range(40):
        rough = smooth + 0.5 * noise(2, 32, 40, seed=step)
        loss = discriminator_loss(discriminator(rough), discriminator(smooth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_generator_learns_from_it_how_rough_the_truth_is() -> None:
    """By the score of features that are random: no discriminator has been trained for it."""
    torch.manual_seed(0)
    discriminator = Discriminator(TINY)
    share = torch.tensor(0.1, requires_grad=True)
    optimizer = torch.optim.Adam([share], lr=0.05)
    for step in range(60):
        truth, one, other = (0.6 * noise(2, 32, 40, seed=3 * step + i) for i in range(3))
        real = discriminator(truth)
        fakes = [discriminator(share / 0.6 * answer) for answer in (one, other)]
        optimizer.zero_grad()
        feature_score(real, fakes).backward()
        optimizer.step()
    assert share.item() == pytest.approx(0.6, abs=0.1)


def test_a_discriminator_of_one_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Got widths \(8,\); give those of 2 layers or more"):
        DiscriminatorConfig(widths=(8,))
