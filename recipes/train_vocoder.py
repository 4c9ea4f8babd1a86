"""Trains a vocoder, which turns mel spectrograms into sound.

    python recipes/train_vocoder.py --preset tiny                 # seconds, synthetic sounds
    python recipes/train_vocoder.py --data sounds/ --out runs/vocoder  # a GPU
    torchrun --nproc_per_node 8 recipes/train_vocoder.py --preset paper --data shards/

`--data` is a folder of audio of any format and rate, a prepared corpus, or shards with samples.
`OUT/model` is the best model so far, with averaged weights, in the layout of transformers'
SpeechT5HifiGan. The spectrograms are those of recipes/train_autoencoder.py with the same preset;
next, recipes/train_diffusion.py joins both. Run the same command again to resume an interrupted
run; the losses are the same as without the interruption.

The network is HiFi-GAN (arXiv 2010.05646). First, a spectral distance over several resolutions and
the error of log-mel spectrograms train it; then discriminators of waveforms are added, at several
rates and periods. The preset paper has the shape of AudioLDM's vocoder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from tqdm import tqdm

from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Recording, SegmentSampler
from lm_audio.networks.hifi_gan import HifiGan, HifiGanConfig
from lm_audio.renderers.log_mel import LogMel
from lm_audio.saving.spectrograms import log_mel_of, write_vocoder
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.discriminators import (
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
from lm_audio.training.waveform_discriminators import (
    WaveformDiscriminator,
    WaveformDiscriminatorConfig,
)
from lm_audio.training.waveform_losses import spectral_distance

EVALUATED_SECONDS = 4.0
MEASURED_BATCHES = 16
"""Batches whose spectrograms decide the normalisation."""


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "paper"] = "default"
    out: Path = Path("runs/vocoder")
    """Folder for the model, checkpoints and log; an interrupted run in it resumes."""
    steps: int = 100_000
    batch_size: int = 16
    seconds: float = 0.64
    """Length of a segment in seconds."""
    adversarial_from: float = 0.3
    """Share of steps before the discriminators are used; 1 turns them off."""
    mel_weight: float = 1.0
    """Weight of the error of log-mel spectrograms, relative to 1 for the spectral distance."""
    adversarial_weight: float = 0.5
    """Weight of the adversarial gradient, relative to 1 for the reconstruction gradient."""
    feature_weight: float = 1.0
    """Weight of the feature matching gradient, relative to 1 for the reconstruction gradient."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, warmup_steps=0)
        if not 0 <= self.adversarial_from <= 1:
            raise ValueError(f"adversarial_from must be from 0 to 1, got {self.adversarial_from}.")
        if not self.mel_weight >= 0:
            raise ValueError(f"mel_weight must be at least 0, got {self.mel_weight}.")


def shape_of(
    num_mels: int,
    sample_rate: int,
    *,
    width: int,
    steps: tuple[tuple[int, int], ...],
    block_kernels: tuple[int, ...] = (3, 7, 11),
    dilations: tuple[int, ...] = (1, 3, 5),
) -> HifiGanConfig:
    """A vocoder; `steps` has the rate and the kernel of each."""
    return HifiGanConfig(
        num_mels=num_mels,
        sample_rate=sample_rate,
        width=width,
        rates=tuple(rate for rate, _ in steps),
        kernels=tuple(kernel for _, kernel in steps),
        block_kernels=block_kernels,
        block_dilations=(dilations,) * len(block_kernels),
    )


SHAPES = {
    "tiny": (
        shape_of(
            *(32, 8_000),
            width=32,
            steps=((5, 11), (4, 8), (4, 8)),
            block_kernels=(3, 7),
            dilations=(1, 3),
        ),
        WaveformDiscriminatorConfig(width=4, num_layers=2, num_scales=1, periods=(2,)),
    ),
    "default": (
        shape_of(64, 16_000, width=256, steps=((5, 11), (4, 8), (4, 8), (2, 4))),
        WaveformDiscriminatorConfig(periods=(2, 3, 5)),
    ),
    "paper": (
        shape_of(64, 16_000, width=1024, steps=((5, 16), (4, 16), (2, 8), (2, 4), (2, 4))),
        WaveformDiscriminatorConfig(width=64),
    ),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        batch_size=4,
        seconds=0.4,
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
        steps=1_000_000,
        batch_size=64,
        seconds=0.512,
        adversarial_from=0.05,
        learning_rate=2e-4,
        warmup_steps=1000,
        evaluate_every=5000,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the reconstruction loss of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    steps, adversarial_from = config.steps, round(config.adversarial_from * config.steps)
    # Only distances of the last phase are comparable.
    last_phase = adversarial_from if adversarial_from < steps else 0
    shape, discriminator_config = SHAPES[config.preset]
    log_mel = log_mel_of(shape)
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index
    corpus = read_corpus(config, log_mel.sample_rate)
    sampler = SegmentSampler(
        corpus.train,
        length=max(1, round(config.seconds * shape.sample_rate / shape.hop_length))
        * shape.hop_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )

    torch.manual_seed(config.seed)
    vocoder = new_vocoder(shape)
    measure(vocoder, log_mel, sampler, first=steps)
    vocoder.to(device).train()
    discriminator = WaveformDiscriminator(discriminator_config, num_channels=1).to(device)
    common: Any = {"learning_rate": config.learning_rate, "weight_decay": 0.0, "betas": (0.8, 0.99)}
    optimizers = [adamw(vocoder, **common), adamw(discriminator, **common)]
    average = EMA(vocoder, decay=config.average_decay)
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
        vocoder.load_state_dict(saved["average"])
        average.restart()
        vocoder.load_state_dict(saved["vocoder"])
        discriminator.load_state_dict(saved["discriminator"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        balancer.load_state_dict(saved["balancer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, trained_discriminator, *optimizers = accelerator.prepare(
        vocoder, discriminator, *optimizers
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
        # Logarithms of digital silence would dominate the distance.
        true = samples.to(device) + torch.randn(samples.shape, device=device) / FULL_SCALE
        mel = log_mel(true[:, 0])
        made = trained(mel)[:, None, : true.shape[2]]
        distance = spectral_distance(made, true)
        mel_error = F.l1_loss(log_mel(made[:, 0]), mel)
        terms = {"reconstruction": distance + config.mel_weight * mel_error}
        if adversarial:
            real = trained_discriminator(true)
            judged = discriminator_loss(real, trained_discriminator(made.detach()))
            accelerator.backward(judged)
            fake = discriminator(made)
            terms["adversarial"] = adversarial_loss(fake)
            terms["features"] = feature_distance(real, fake)
        accelerator.backward((made * balancer.gradient(terms, made)).sum())
        values = {**terms, "distance": distance, "mel error": mel_error}
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
                error = evaluate(vocoder, log_mel, corpus.held_out, tracker, step=step + 1)
                check_finite(error, report["gradient norm"], step=step, checkpoints=checkpoints)
                if step < last_phase or checkpoints.is_best(error):
                    write_vocoder(config.out / "model", vocoder)
                averaged = {name: x.clone() for name, x in vocoder.state_dict().items()}
            checkpoints.save(
                {
                    "settings": settings,
                    "vocoder": vocoder.state_dict(),
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
            f"Wrote the vocoder to {config.out / 'model'}. Next: python "
            f"recipes/train_diffusion.py --preset {config.preset} --autoencoder "
            f"runs/autoencoder/model --vocoder {config.out / 'model'}"
        )
    return losses


def new_vocoder(shape: HifiGanConfig) -> HifiGan:
    """A vocoder with new weights, normalised while it trains."""
    vocoder = HifiGan(shape)
    for layer in vocoder.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(layer)
    return vocoder


@torch.no_grad()
def measure(vocoder: HifiGan, log_mel: LogMel, sampler: SegmentSampler, *, first: int) -> None:
    """Sets the normalisation to the mean and deviation of each band of training sounds."""
    mels = torch.cat([log_mel(sampler.batch(first + i)[:, 0]) for i in range(MEASURED_BATCHES)])
    vocoder.mean.copy_(mels.mean(dim=(0, 2)))
    vocoder.scale.copy_(mels.std(dim=(0, 2)).clamp(min=1e-2))


@torch.no_grad()
def evaluate(
    vocoder: HifiGan, log_mel: LogMel, clips: list[Recording], tracker: Tracker, *, step: int
) -> float:
    """The mean spectral distance on the first seconds of up to 12 held-out clips of each kind."""
    vocoder.eval()
    device, rate = vocoder.mean.device, log_mel.sample_rate
    errors: dict[str, list[float]] = {}
    for kind in sorted({clip.kind for clip in clips}):
        for number, clip in enumerate([clip for clip in clips if clip.kind == kind][:12]):
            samples = torch.from_numpy(clip.samples[: int(EVALUATED_SECONDS * rate)]).float()
            true = F.pad(samples / FULL_SCALE, (0, -len(samples) % log_mel.hop_length))
            true = true.to(device)[None]
            made = vocoder(log_mel(true))[:, : true.shape[1]]
            error = spectral_distance(made[None], true[None])
            errors.setdefault(kind, []).append(error.item())
            if number == 0:
                tracker.sound(f"held out/{kind}", made, rate, step=step)
    vocoder.train()
    report = {kind: sum(values) / len(values) for kind, values in errors.items()}
    tracker.held_out(report, step=step)
    return sum(report.values()) / len(report)


def cost(config: Config) -> str:
    """The cost of a run with the discriminators."""
    shape, discriminator_config = SHAPES[config.preset]
    with torch.device("meta"):
        vocoder = HifiGan(shape)
        discriminator = WaveformDiscriminator(discriminator_config, num_channels=1)
    modules = nn.ModuleList([vocoder, discriminator])
    remove_weight_norms(discriminator)
    num_frames = max(1, round(config.seconds * shape.sample_rate / shape.hop_length))

    def loss() -> Tensor:
        made = vocoder(torch.zeros(1, shape.num_mels, num_frames))[:, None]
        real, fake = discriminator(torch.zeros_like(made)), discriminator(made)
        return (
            made.square().mean()
            + discriminator_loss(real, discriminator(made.detach()))
            + adversarial_loss(fake)
            + feature_distance(real, fake)
        )

    one = step_cost(modules, loss)
    return cost_table(modules, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
