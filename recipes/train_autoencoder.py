"""Trains an autoencoder of mel spectrograms, whose latents a diffusion model can learn.

    python recipes/train_autoencoder.py --preset tiny                 # seconds, synthetic sounds
    python recipes/train_autoencoder.py --data sounds/ --out runs/autoencoder  # a GPU
    torchrun --nproc_per_node 8 recipes/train_autoencoder.py --preset paper --data shards/

`--data` is a folder of audio of any format and rate, a prepared corpus, or shards with samples.
`OUT/model` is the best model so far, with averaged weights, in the layout of diffusers'
AutoencoderKL. Next, train a vocoder with recipes/train_vocoder.py, and a diffusion model with
recipes/train_diffusion.py --autoencoder OUT/model. Run the same command again to resume an
interrupted run; the losses are the same as without the interruption.

The loss is the mean absolute error of log-mel spectrograms, plus a small weight of the divergence
of the latents from a standard normal distribution (arXiv 2112.10752). In the last part of the run a
discriminator of spectrograms is added, which keeps details that the error alone would blur. The
preset paper has the shape of AudioLDM's autoencoder (arXiv 2301.12503).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Recording, SegmentSampler
from lm_audio.networks.autoencoder2d import Autoencoder2d, Autoencoder2dConfig
from lm_audio.renderers.log_mel import LogMel, usual_log_mel
from lm_audio.saving.spectrograms import write_autoencoder
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from lm_audio.training.estimate import cost_table, step_cost
from lm_audio.training.loss_balancer import LossBalancer
from lm_audio.training.optimization import EMA, adamw, learning_rate_share, set_learning_rate
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import SoundSettings, read_corpus, remove_weight_norms
from lm_audio.training.tracking import Tracker

EVALUATED_SECONDS = 4.0
SCALED_BATCHES = 16
"""Batches whose latents decide their scale."""


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "paper"] = "default"
    out: Path = Path("runs/autoencoder")
    """Folder for the model, checkpoints and log; an interrupted run in it resumes."""
    steps: int = 100_000
    batch_size: int = 8
    seconds: float = 5.12
    """Length of a segment in seconds, and of the windows in which the model is used."""
    adversarial_from: float = 0.5
    """Share of steps before the discriminator is used; 1 turns it off."""
    divergence_weight: float = 1e-3
    """Weight of the divergence per latent, relative to 1 for the error per value."""
    adversarial_weight: float = 0.3
    """Weight of the adversarial gradient, relative to 1 for the reconstruction gradient."""
    feature_weight: float = 0.3
    """Weight of the feature matching gradient, relative to 1 for the reconstruction gradient."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, warmup_steps=0)
        if not 0 <= self.adversarial_from <= 1:
            raise ValueError(f"adversarial_from must be from 0 to 1, got {self.adversarial_from}.")
        if not self.divergence_weight >= 0:
            raise ValueError(f"divergence_weight must be at least 0, got {self.divergence_weight}.")

    @property
    def window_frames(self) -> int:
        """Latent frames of a segment."""
        shape, log_mel, _ = SHAPES[self.preset]
        hop = shape.factor * log_mel.hop_length
        return max(1, round(self.seconds * log_mel.sample_rate / hop))


def shape_of(
    widths: tuple[int, ...], *, num_blocks: int, latent_channels: int, num_groups: int = 32
) -> Autoencoder2dConfig:
    return Autoencoder2dConfig(
        channels=1,
        latent_channels=latent_channels,
        widths=widths,
        num_blocks=num_blocks,
        attends=(False,) * len(widths),
        num_groups=num_groups,
    )


SHAPES = {  # of the autoencoder, the spectrograms and the discriminator
    "tiny": (
        shape_of((8, 16, 16), num_blocks=1, latent_channels=4, num_groups=4),
        usual_log_mel(sample_rate=8_000, hop_length=80, num_mels=32),
        DiscriminatorConfig(widths=(4, 8, 8)),
    ),
    "default": (
        shape_of((64, 128, 256), num_blocks=1, latent_channels=8),
        usual_log_mel(sample_rate=16_000, hop_length=160, num_mels=64),
        DiscriminatorConfig(),
    ),
    "paper": (
        shape_of((128, 256, 512), num_blocks=2, latent_channels=8),
        usual_log_mel(sample_rate=16_000, hop_length=160, num_mels=64),
        DiscriminatorConfig(widths=(64, 128, 256, 256)),
    ),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=80,
        batch_size=4,
        seconds=0.96,
        adversarial_from=0.8,
        learning_rate=5e-3,
        warmup_steps=5,
        average_decay=0.9,
        evaluate_every=20,
        precision="float32",
    ),
    "default": Config(),
    "paper": Config(
        preset="paper",
        steps=500_000,
        batch_size=16,
        seconds=10.24,
        learning_rate=1e-4,
        warmup_steps=1000,
        evaluate_every=5000,
    ),
}


class Reconstruction(nn.Module):
    """An autoencoder in training: random latents, and their divergence."""

    def __init__(self, autoencoder: Autoencoder2d) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructs spectrograms [B, 1, T, M]; also returns the divergence per latent."""
        mean, deviation = self.autoencoder.encode(x)
        made = self.autoencoder.decode(mean + deviation * torch.randn_like(deviation))
        squares = mean.float().square() + deviation.float().square()
        return made, 0.5 * (squares - 1 - 2 * deviation.float().log()).mean()


def main(config: Config) -> list[float]:
    """Trains to the end and returns the reconstruction loss of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    steps, adversarial_from = config.steps, round(config.adversarial_from * config.steps)
    # The losses before and with the discriminator are not comparable.
    last_phase = adversarial_from if adversarial_from < steps else 0
    shape, log_mel, discriminator_config = SHAPES[config.preset]
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index
    corpus = read_corpus(config, log_mel.sample_rate)
    sampler = SegmentSampler(
        corpus.train,
        length=config.window_frames * shape.factor * log_mel.hop_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )

    torch.manual_seed(config.seed)
    autoencoder = Autoencoder2d(shape)
    standardise(autoencoder, images_of(sampler.batch(steps), log_mel))
    autoencoder.to(device).train()
    discriminator = Discriminator(discriminator_config).to(device)
    common: Any = {"learning_rate": config.learning_rate, "weight_decay": 0.0, "betas": (0.8, 0.99)}
    optimizers = [adamw(autoencoder, **common), adamw(discriminator, **common)]
    average = EMA(autoencoder, decay=config.average_decay)
    balancer = LossBalancer(
        {
            "reconstruction": 1.0,
            "adversarial": config.adversarial_weight,
            "features": config.feature_weight,
        }
    )

    first_step, settings = 0, config.lasting(corpus)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        autoencoder.load_state_dict(saved["average"])
        average.restart()
        autoencoder.load_state_dict(saved["autoencoder"])
        discriminator.load_state_dict(saved["discriminator"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        balancer.load_state_dict(saved["balancer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, trained_discriminator, *optimizers = accelerator.prepare(
        Reconstruction(autoencoder), discriminator, *optimizers
    )
    losses = []
    progress = tqdm(range(first_step, steps), initial=first_step, total=steps, disable=rank > 0)
    for step in progress:
        torch.manual_seed(seed_of(config.seed, step))  # all random numbers of a step
        share = learning_rate_share(
            step, steps=steps, warmup_steps=config.warmup_steps, schedule="cosine", final=0.01
        )
        for optimizer in optimizers:
            set_learning_rate(optimizer, share * config.learning_rate)
        adversarial = step >= adversarial_from
        samples = sampler.batch(step, part=rank, num_parts=accelerator.num_processes)
        true = images_of(samples.to(device), log_mel)
        made, divergence = trained(true)
        terms = {"reconstruction": F.l1_loss(made, true)}
        if adversarial:
            real = trained_discriminator(true[:, 0])
            judged = discriminator_loss(real, trained_discriminator(made[:, 0].detach()))
            accelerator.backward(judged)
            fake = discriminator(made[:, 0])
            terms["adversarial"] = adversarial_loss(fake)
            terms["features"] = feature_distance(real, fake)
        balanced = (made * balancer.gradient(terms, made)).sum()
        accelerator.backward(balanced + config.divergence_weight * divergence)
        values = {**terms, "divergence": divergence}
        values["gradient norm"] = accelerator.clip_grad_norm_(trained.parameters(), config.max_norm)
        if adversarial:
            values["discriminator"] = judged
            values["gradient norm of discriminator"] = accelerator.clip_grad_norm_(
                trained_discriminator.parameters(), config.max_norm
            )
        numbers = torch.stack([value.detach().float() for value in values.values()])
        report = dict(zip(values, accelerator.reduce(numbers, "mean").tolist(), strict=True))
        check_finite(
            sum(report.values()), report["gradient norm"], step=step, checkpoints=checkpoints
        )
        for optimizer in optimizers if adversarial else optimizers[:1]:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        average.update(step)
        losses.append(report["reconstruction"])
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if step % 10 == 0:
            tracker.numbers({f"train/{k}": v for k, v in report.items()}, step=step)

        if ((step + 1) % config.evaluate_every == 0 or step + 1 == steps) and rank == 0:
            with average.swapped():
                autoencoder.eval()
                error = evaluate(autoencoder, log_mel, corpus.held_out, tracker, step=step + 1)
                check_finite(error, report["gradient norm"], step=step, checkpoints=checkpoints)
                if step < last_phase or checkpoints.is_best(error):
                    write_autoencoder(
                        config.out / "model",
                        autoencoder,
                        scale=scale_of(autoencoder, log_mel, sampler, first=steps),
                        log_mel=log_mel,
                        window_frames=config.window_frames,
                    )
                averaged = {name: x.clone() for name, x in autoencoder.state_dict().items()}
                autoencoder.train()
            checkpoints.save(
                {
                    "settings": settings,
                    "autoencoder": autoencoder.state_dict(),
                    "average": averaged,
                    "discriminator": discriminator.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "balancer": balancer.state_dict(),
                },
                step=step + 1,
                loss=error if step >= last_phase else None,
            )
    tracker.close()
    if rank == 0:
        print(
            f"Wrote the autoencoder to {config.out / 'model'}. Next: python "
            f"recipes/train_vocoder.py --preset {config.preset}"
        )
    return losses


def images_of(samples: Tensor, log_mel: LogMel) -> Tensor:
    """Spectrograms [B, 1, T, M] of samples [B, 1, N]."""
    return log_mel(samples[:, 0]).transpose(1, 2)[:, None]


@torch.no_grad()
def standardise(autoencoder: Autoencoder2d, images: Tensor) -> None:
    """Gives a new model's outer layers the mean and the deviation of spectrograms, far from 0, 1.

    The layout of the files has no place for a normalisation of its own.
    """
    mean, deviation = float(images.mean()), max(1e-3, float(images.std()))
    first, last = autoencoder.encoder.conv_in, autoencoder.decoder.conv_out
    assert first.bias is not None
    assert last.bias is not None
    first.weight /= deviation
    first.bias -= mean * first.weight.sum(dim=(1, 2, 3))
    last.weight *= deviation
    last.bias.fill_(mean)


@torch.no_grad()
def evaluate(
    autoencoder: Autoencoder2d,
    log_mel: LogMel,
    clips: list[Recording],
    tracker: Tracker,
    *,
    step: int,
) -> float:
    """The mean error on the first seconds of up to 12 held-out clips of each kind."""
    device = next(autoencoder.parameters()).device
    hop = autoencoder.config.factor * log_mel.hop_length
    length = int(EVALUATED_SECONDS * log_mel.sample_rate) // hop * hop
    errors: dict[str, list[float]] = {}
    for kind in sorted({clip.kind for clip in clips}):
        for clip in [clip for clip in clips if clip.kind == kind][:12]:
            samples = torch.from_numpy(clip.samples[:length]).float() / FULL_SCALE
            samples = F.pad(samples, (0, -len(samples) % hop)).to(device)
            true = images_of(samples[None, None], log_mel)
            made = autoencoder.decode(autoencoder.encode(true)[0])
            errors.setdefault(kind, []).append(F.l1_loss(made, true).item())
    report = {kind: sum(values) / len(values) for kind, values in errors.items()}
    tracker.held_out(report, step=step)
    return sum(report.values()) / len(report)


@torch.no_grad()
def scale_of(
    autoencoder: Autoencoder2d, log_mel: LogMel, sampler: SegmentSampler, *, first: int
) -> float:
    """The factor that gives the latents of training sounds a deviation of 1."""
    device = next(autoencoder.parameters()).device
    batches = [
        autoencoder.encode(images_of(sampler.batch(first + i).to(device), log_mel))[0]
        for i in range(SCALED_BATCHES)
    ]
    return 1 / max(1e-6, float(torch.cat(batches).double().std()))


def cost(config: Config) -> str:
    """The cost of a run with the discriminator."""
    shape, log_mel, discriminator_config = SHAPES[config.preset]
    with torch.device("meta"):
        model, discriminator = (
            Reconstruction(Autoencoder2d(shape)),
            Discriminator(discriminator_config),
        )
    modules = nn.ModuleList([model, discriminator])
    remove_weight_norms(discriminator)

    def loss() -> Tensor:
        true = torch.zeros(1, 1, config.window_frames * shape.factor, log_mel.num_mels)
        made, divergence = model(true)
        real, fake = discriminator(true[:, 0]), discriminator(made[:, 0])
        return (
            F.l1_loss(made, true)
            + divergence
            + discriminator_loss(real, discriminator(made[:, 0].detach()))
            + adversarial_loss(fake)
            + feature_distance(real, fake)
        )

    one = step_cost(modules, loss)
    return cost_table(modules, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
