"""Discriminators tell sounds apart, and their losses are those of the papers."""

import pytest
import torch
from torch import Tensor

from lm_audio.training.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    Judgement,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)

TINY = DiscriminatorConfig(
    window_lengths=(256, 64), periods=(2, 3), spectrum_width=4, period_width=2
)


def noise(seed: int, length: int = 1_200) -> Tensor:
    return 0.1 * torch.randn(2, 1, length, generator=torch.Generator().manual_seed(seed))


def judgement(*logits: float, features: float = 1.0) -> Judgement:
    return Judgement(logits=torch.tensor([logits]), features=[torch.full((1, 4), features)])


def test_each_discriminator_judges_by_its_layers() -> None:
    judgements = Discriminators(TINY)(noise(0))
    assert len(judgements) == 4
    assert all(len(found.features) == 5 for found in judgements)
    assert all(found.logits.ndim == 2 and found.logits.shape[0] == 2 for found in judgements)


def test_a_discriminator_of_periods_hears_each_phase_alone() -> None:
    torch.manual_seed(0)
    part = PeriodDiscriminator(3, width=4)
    samples = noise(0)[:, 0]
    changed = samples.clone()
    changed[:, 1::3] += 0.5
    first, second = (part(x).logits.unflatten(1, (-1, 3)) for x in (samples, changed))
    torch.testing.assert_close(first[..., [0, 2]], second[..., [0, 2]])
    assert not torch.allclose(first[..., 1], second[..., 1])


def test_a_length_that_is_no_multiple_of_the_period_is_filled_with_silence() -> None:
    part = PeriodDiscriminator(7, width=4)
    samples = noise(0, 1_000)[:, 0]
    filled = torch.nn.functional.pad(samples, (0, 1))
    torch.testing.assert_close(part(samples).logits, part(filled).logits)


def test_a_discriminator_of_spectra_hears_phases() -> None:
    part = SpectrumDiscriminator(256, width=4)
    samples = noise(0)[:, 0]
    assert not torch.allclose(part(samples).logits, part(-samples).logits)


def test_losses_are_hinges() -> None:
    real, fake = [judgement(2.0, 0.5)], [judgement(-3.0, 0.25)]
    assert discriminator_loss(real, fake).item() == pytest.approx(0.25 + 0.625)
    assert adversarial_loss(fake).item() == pytest.approx((4 + 0.75) / 2)
    assert discriminator_loss([judgement(1.0)], [judgement(-1.0)]) == 0
    assert adversarial_loss([judgement(1.5)]) == 0


def test_feature_distance_is_relative_to_the_real_ones() -> None:
    real = [judgement(0.0, features=2.0), judgement(0.0, features=10.0)]
    fake = [judgement(0.0, features=3.0), judgement(0.0, features=5.0)]
    assert feature_distance(real, fake).item() == pytest.approx(0.5)
    assert feature_distance(real, real) == 0


def test_features_of_the_real_are_a_goal_that_does_not_move() -> None:
    discriminators = Discriminators(TINY)
    truth, answer = noise(0).requires_grad_(), noise(1).requires_grad_()
    feature_distance(discriminators(truth), discriminators(answer)).backward()
    assert truth.grad is None
    assert answer.grad is not None
    assert answer.grad.abs().sum() > 0


def test_noise_and_tones_are_told_apart_within_a_few_steps() -> None:
    torch.manual_seed(0)
    discriminators = Discriminators(TINY)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=1e-2)
    tone = 0.1 * torch.sin(torch.arange(1_200) * 0.2).expand(2, 1, -1)
    losses = []
    for step in range(20):
        loss = discriminator_loss(discriminators(noise(step)), discriminators(tone))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_no_discriminator_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no window_lengths and no periods; give at least one"):
        DiscriminatorConfig(window_lengths=(), periods=())
