"""Training of diffusion stages: batches, the objective, and that one batch is learnt by heart."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.shards import Example, Shards, Stream, shard_path, write_shard
from lm_audio.families.latent_flow.stages import latent_flow
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts, estimate
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal
from lm_audio.training.diffusion_batches import (
    NUM_BINS,
    KnownFrames,
    LatentBatch,
    LatentBatches,
)
from lm_audio.training.diffusion_objective import DiffusionObjective, target
from lm_audio.training.latents import sample_latents, scale_of
from lm_audio.training.optimization import language_model_optimizer, set_learning_rate
from lm_audio.training.stage_batches import Dropout

RATE, WIDTH, SEMANTIC = Fraction(50), 6, 10
SIGNAL = Signal(kind="latents", content="latents", rate=RATE, width=WIDTH)
SHAPE = TransformerConfig(
    dim=32, num_layers=2, num_heads=2, hidden_dim=64, causal=False, cross_attention=True
)
WORDS = ("rain", "dog", "sea")
LENGTHS = (40, 31, 24)


def labels(dim: int) -> nn.Module:
    return LabelConditioner(WORDS, dim)


def latents(tokens: Tensor) -> Tensor:
    """Latents [D, T] of tokens [2, T]."""
    table = torch.randn(2, 16, WIDTH, generator=torch.Generator().manual_seed(5))
    return (table[0, tokens[0]] + table[1, tokens[1]]).T


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    streams = {
        "acoustic": Stream(rate=RATE, num_codebooks=2, num_tokens=16, identity="codec"),
        "semantic": Stream(rate=RATE / 2, num_codebooks=1, num_tokens=SEMANTIC, identity="words"),
    }
    generator = torch.Generator().manual_seed(3)
    examples = [
        Example(
            id=str(i),
            streams={
                "acoustic": torch.randint(16, (2, T), generator=generator),
                "semantic": torch.arange(-(-T // 2))[None] % SEMANTIC,
            },
            conditions={"text": WORDS[i], "label": WORDS[i]},
        )
        for i, T in enumerate(LENGTHS)
    ]
    write_shard(shard_path(tmp_path, "train", 0), examples, streams)
    return Shards(tmp_path)


def make_stage(**settings: Any) -> DiffusionStage:
    torch.manual_seed(0)
    return latent_flow(SHAPE, makes=SIGNAL, **{"text": labels, "window_seconds": 0.8} | settings)


def make_batches(stage: DiffusionStage, shards: Shards, **settings: Any) -> LatentBatches:
    given = {"latents": latents, "frames": 120, "seed": 0, "dropout": None}
    return LatentBatches(stage, shards, **given | settings)


# Batches


def test_a_batch_depends_on_its_number_and_the_seed_only(shards: Shards) -> None:
    settings = {"known": KnownFrames(), "dropout": Dropout(joint=0.5), "logit_normal": True}
    first, again = (make_batches(make_stage(), shards, **settings)[3] for _ in range(2))
    for name, value in vars(first).items():
        other = getattr(again, name)
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other
    for other in (
        make_batches(make_stage(), shards, **settings)[4],
        make_batches(make_stage(), shards, **settings | {"seed": 1})[3],
    ):
        assert not torch.equal(first.noise, other.noise)


def test_crops_are_padded_and_padding_has_no_loss(shards: Shards) -> None:
    batch = make_batches(make_stage(), shards)[0]
    assert batch.latents.shape == (3, WIDTH, 40)
    assert batch.mask.sum(dim=1).tolist() == sorted(LENGTHS, reverse=True)
    assert batch.counts(NUM_BINS).sum() == WIDTH * sum(LENGTHS)
    assert not batch.latents[1, :, 31:].any()
    assert batch.conditions["text"] == ["rain", "dog", "sea"]


@pytest.mark.parametrize("semantic_rate", [RATE / 2, Fraction(20)])
def test_semantic_tokens_are_those_of_the_crops_time(
    shards: Shards, semantic_rate: Fraction
) -> None:
    stage = make_stage(
        num_semantic_tokens=SEMANTIC, semantic_rate=semantic_rate, window_seconds=0.3
    )
    batches = make_batches(stage, shards, frames=60)
    aligned = stage.conditioners["semantic"]
    for number in range(6):
        batch = batches[number]
        summed = aligned(batch.conditions["semantic"], frames=batch.frames)
        for row, crop in enumerate(batches.crops[number]):
            whole = shards.read(crop.index, "semantic").long()
            expected = aligned([whole], frames=torch.arange(crop.start, crop.stop))
            torch.testing.assert_close(summed[row, : crop.length], expected[0])


def test_known_frames_are_prompts_surroundings_or_none() -> None:
    random = np.random.default_rng(0)
    kinds = {"none": 0, "before": 0, "around": 0}
    for _ in range(2000):
        known = KnownFrames(before=0.3, around=0.2).mask(20, random)
        assert not known.all()
        changes = int((known[1:] != known[:-1]).sum())
        if not known.any():
            kinds["none"] += 1
        elif known[0] and changes == 1 and not known[-1]:
            kinds["before"] += 1
        else:
            assert changes <= 2
            kinds["around"] += 1
    assert 0.25 < kinds["before"] / 2000 < 0.36
    assert 0.15 < kinds["around"] / 2000 < 0.25


def test_levels_are_stratified(shards: Shards) -> None:
    batches = make_batches(make_stage(), shards)
    for number in range(4):
        thirds = (batches[number].times * 3).long().sort().values
        assert thirds.tolist() == [0, 1, 2]
    medium = make_batches(make_stage(), shards, logit_normal=True)
    times = torch.cat([medium[number].times for number in range(60)])
    assert 0.25 < ((times > 0.4) & (times < 0.6)).float().mean() < 0.4  # uniform: 0.2


def test_mistakes_are_refused(shards: Shards) -> None:
    with pytest.raises(ValueError, match="Unknown condition 'label' to drop"):
        make_batches(make_stage(), shards, dropout=Dropout(each={"label": 0.1}))
    with pytest.raises(ValueError, match="does not see known frames"):
        make_batches(make_stage(sees_known=False), shards, known=KnownFrames())
    with pytest.raises(ValueError, match=r"40 frames exceeds a batch of 30.*--frames-per-batch"):
        make_batches(make_stage(), shards, frames=30)
    with pytest.raises(ValueError, match="add up to at most 1"):
        KnownFrames(before=0.7, around=0.4)


# The objective


@pytest.mark.parametrize("kind", ["flow", "cosine", "linear", "crash", "angle"])
def test_training_levels_are_those_of_a_run(kind: Any) -> None:
    schedule = NoiseSchedule(kind=kind, shift=3.0 if kind == "flow" else 1.0)
    steps = schedule.num_train_steps if not schedule.starts_without_signal else 50
    levels = schedule.levels(steps)
    share = np.arange(steps, 0, -1) / steps
    if not schedule.starts_without_signal:
        share = share - 0.5 / steps  # the middle of each training step
    alpha, sigma, time = schedule.at(share)
    np.testing.assert_allclose(alpha, levels.alpha[:-1], atol=1e-12)
    np.testing.assert_allclose(sigma, levels.sigma[:-1], atol=1e-12)
    np.testing.assert_allclose(time, levels.time, atol=1e-12)


@pytest.mark.parametrize("predicts", ["epsilon", "v", "x0", "flow"])
def test_a_network_that_outputs_the_target_is_estimated_as_signal_and_noise(
    predicts: Predicts,
) -> None:
    signal, noise = torch.randn(2, 3, 4, dtype=torch.float64)
    for alpha, sigma in ((0.6, 0.8), (0.3, 0.7)):
        if predicts == "v" and alpha + sigma == 1:
            continue
        made = target(
            signal,
            noise,
            alpha=torch.tensor(alpha),
            sigma=torch.tensor(sigma),
            predicts=predicts,
        )
        x = alpha * signal + sigma * noise
        found = estimate(made, x, alpha=alpha, sigma=sigma, predicts=predicts)
        torch.testing.assert_close(found.x0, signal, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found.noise, noise, rtol=1e-6, atol=1e-6)


def test_new_weights_have_the_loss_of_the_mean_and_padding_changes_nothing(
    shards: Shards,
) -> None:
    stage = make_stage()
    batch = make_batches(stage, shards, known=KnownFrames(before=1.0, around=0.0))[0]
    loss = DiffusionObjective(stage)(batch)
    errors = (batch.noise - batch.latents).square()  # of an output of zeros
    expected = torch.where(batch.judged[:, None], errors, 0.0).sum(dim=(1, 2))
    torch.testing.assert_close(loss.sum(), expected.sum())
    for number in range(NUM_BINS):
        torch.testing.assert_close(loss[number], expected[batch.bins == number].sum())


def test_the_scale_standardises_the_latents(shards: Shards) -> None:
    mean, deviation = scale_of(shards, latents)
    values = torch.cat(
        [latents(shards.read(i, "acoustic").long()) for i in range(len(shards))], dim=1
    )
    torch.testing.assert_close(mean, values.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deviation, values.std(dim=1, correction=0), rtol=1e-4, atol=1e-5)


# The proof


@pytest.mark.slow  # ten seconds of one core
def test_a_batch_learnt_by_heart_comes_back_from_noise(shards: Shards) -> None:
    """Three crops under their labels; noise, levels and known frames are new in each step."""
    stage = make_stage(window_seconds=0.2)
    settings = {"known": KnownFrames(before=0.3, around=0.1), "logit_normal": True}
    batches = make_batches(stage, shards, frames=30, **settings)
    same, steps, copies, losses = batches[0], 300, 3, []
    objective = DiffusionObjective(stage).train()
    optimizer = language_model_optimizer("muon", objective, learning_rate=0.0, weight_decay=0.0)
    for step in range(steps):
        set_learning_rate(optimizer, 2e-2 * min(1.0, (step + 1) / 20, 2 * (1 - step / steps)))
        batch = repeated(same, [batches[copies * step + i] for i in range(copies)])
        loss = objective(batch).sum() / batch.counts(NUM_BINS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-30:]) < 0.2 * losses[0]
    objective.eval()
    stage = replace(stage, sampling=Denoising(steps=12, solver="euler", guidance_scale=1.0))
    for row, word in enumerate(same.conditions["text"]):
        made = sample_latents(stage, num_frames=10, seed=1, conditions={"text": word})
        wanted = same.latents[row]
        assert (made - wanted).square().mean() < 0.15 * wanted.square().mean()


def repeated(same: LatentBatch, others: list[LatentBatch]) -> LatentBatch:
    """The latents of one batch with the noise, levels and known frames of others."""
    news = ("noise", "shares", "alpha", "sigma", "times", "known")
    olds = ("latents", "frames", "mask")
    tensors = {name: torch.cat([getattr(each, name) for each in others]) for name in news}
    tensors |= {name: torch.cat([getattr(same, name)] * len(others)) for name in olds}
    conditions = {name: [*given] * len(others) for name, given in same.conditions.items()}
    return replace(same, **tensors, conditions=conditions)
