"""Trains RAVE: an autoencoder of sound whose latents can be played, and a codec.

    python recipes/train_rave.py --preset tiny                        # seconds, synthetic sounds
    python recipes/train_rave.py --data piano/ --out runs/rave        # a small model, hours of CPU
    python recipes/train_rave.py --preset paper --variant causal --data strings/   # a GPU, days
    python recipes/train_rave.py --start runs/rave --steps 0 --data piano/ --out runs/rave_tokens

`--data` is a folder of audio of any format and rate, a prepared corpus, or shards with samples; an
hour of one kind of sound, such as one instrument, is enough. `--out` receives the codec
(config.json and model.safetensors, from the averaged weights): use it with `lm-audio transfer` or
`lm-audio encode --codec OUT`. Run the same command again to resume an interrupted run; the losses
are the same as without the interruption.

Training has two phases. In the first, a multi-resolution spectral distance and the divergence of
the latents train encoder and decoder. In the second, the encoder is frozen and a discriminator
trains the decoder further. Then the latents are analysed: the leading principal components that
hold `--fidelity` of the variance get a quantiser, so that the model makes tokens. `--steps 0` only
analyses a model from `--start`.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from audio_tokenizers.acoustic.rave import (
    VARIANTS,
    RaveCodec,
    RaveConfig,
    RaveOutput,
    load_rave,
    save_rave,
)
from audio_tokenizers.acoustic.rave.latent_analysis import (
    FIDELITY,
    LatentReport,
    add_codebooks,
    analyse_latents,
    describe_latents,
    frames_of,
)
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Corpus, Recording, SegmentSampler
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.discriminators import (
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from lm_audio.training.estimate import cost_table, step_cost
from lm_audio.training.optimization import EMA
from lm_audio.training.processes import Precision
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import SoundSettings, read_corpus, remove_weight_norms
from lm_audio.training.tracking import Tracker
from lm_audio.training.waveform_discriminators import (
    WaveformDiscriminator,
    WaveformDiscriminatorConfig,
)
from lm_audio.training.waveform_losses import spectral_distance

EVALUATED_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "paper"] = "default"
    variant: Literal["v2", "v2_small", "causal", "discrete", "tiny"] = "v2"
    """Shape of the model."""
    capacity: int | None = None
    """Width of the first layer; that of the variant by default. Time grows with its square."""
    noise_amplitudes: int | None = None
    """Frequencies per band of the noise synthesiser, 0 for none; that of the variant by default."""
    sample_rate: int = 48_000
    out: Path = Path("runs/rave")
    """Folder for the codec, checkpoints and log; an interrupted run in it resumes."""
    start: Path | None = None
    """Folder of a model to start from, with its shape."""
    steps: int = 20_000
    batch_size: int = 8
    seconds: float = 1.37
    """Length of a segment in seconds."""
    adversarial_from: float = 0.6
    """Share of steps before the encoder is frozen and the discriminator is used; 1 turns it off."""
    discriminator_every: int = 4
    """Steps between those that train the discriminator instead of the decoder."""
    divergence_weight: float = 5e-2
    """Final weight of the divergence of Gaussian latents from their prior."""
    divergence_start: float = 1e-6
    """First weight of the divergence."""
    divergence_steps: int = 20_000
    """Steps over which that weight rises."""
    commitment_weight: float = 1.0
    """Weight of the commitment loss of a discrete model."""
    feature_weight: float = 20.0
    """Weight of feature matching in the second phase."""
    learning_rate: float = 1e-3
    """Learning rate of encoder and decoder; that of the discriminator is a tenth."""
    max_norm: float = 10.0
    fidelity: float = FIDELITY
    """Share of the variance of Gaussian latents that tokens describe."""
    num_codebooks: int | None = None
    """Codebooks of the tokens; those of the variant by default."""
    codebook_size: int | None = None
    """Entries of a codebook; those of the variant by default."""
    analysed_seconds: float = 600.0
    """Seconds of training sound to analyse."""
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=0, discriminator_every=2)
        if self.steps == 0 and self.start is None:
            raise ValueError("--steps 0 only analyses a model; give one as --start.")
        if not 0 <= self.adversarial_from <= 1:
            raise ValueError(f"adversarial_from must be from 0 to 1, got {self.adversarial_from}.")

    def shape(self) -> RaveConfig:
        """The model's settings."""
        if self.start is not None:
            return load_rave(self.start).config
        shape = VARIANTS[self.variant](sample_rate=self.sample_rate)
        names = ("capacity", "noise_amplitudes", "num_codebooks", "codebook_size")
        given = {name: getattr(self, name) for name in names}
        return replace(shape, **{name: value for name, value in given.items() if value is not None})


DISCRIMINATORS = {
    "tiny": WaveformDiscriminatorConfig(width=4, num_layers=2, num_scales=1, periods=(2,)),
    "default": WaveformDiscriminatorConfig(periods=(2, 3, 5)),
    "paper": WaveformDiscriminatorConfig(width=64),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        variant="tiny",
        sample_rate=8_000,
        steps=40,
        batch_size=4,
        seconds=0.5,
        divergence_steps=20,
        learning_rate=3e-3,
        average_decay=0.9,
        analysed_seconds=20.0,
    ),
    "default": Config(capacity=32),
    "paper": Config(
        preset="paper",
        steps=3_000_000,
        adversarial_from=1 / 3,
        evaluate_every=10_000,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the spectral distance of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    adversarial_from = round(config.adversarial_from * config.steps)
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index
    torch.manual_seed(config.seed)
    codec = RaveCodec(config.shape()).to(device).train()
    if codec.num_channels > 1:
        raise ValueError("This recipe trains mono models; its sounds are mixed to one channel.")
    if config.start is not None:
        take_weights(codec, load_rave(config.start))
    discriminator = WaveformDiscriminator(DISCRIMINATORS[config.preset], num_channels=1).to(device)
    rate, betas = config.learning_rate, (0.5, 0.9)
    optimizers: list[Any] = [
        torch.optim.Adam(codec.encoder.parameters(), lr=rate, betas=betas),
        torch.optim.Adam(codec.decoder.parameters(), lr=rate, betas=betas),
        torch.optim.Adam(discriminator.parameters(), lr=rate / 10, betas=betas),
    ]
    average = EMA(codec, decay=config.average_decay)
    corpus = read_corpus(config, codec.sample_rate)
    sampler = SegmentSampler(
        corpus.train,
        length=max(1, int(config.seconds * codec.frame_rate)) * codec.hop_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )

    first_step, settings = 0, config.lasting(corpus)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        codec.load_state_dict(saved["average"])
        average.restart()
        codec.load_state_dict(saved["codec"])
        discriminator.load_state_dict(saved["discriminator"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, trained_discriminator, *optimizers = accelerator.prepare(
        codec, discriminator, *optimizers
    )
    losses = []
    progress = tqdm(range(first_step, config.steps), initial=first_step, total=config.steps)
    for step in progress:
        torch.manual_seed(seed_of(config.seed, step))  # all random numbers of a step
        samples = sampler.batch(step, part=rank, num_parts=accelerator.num_processes).to(device)
        # Logarithms of digital silence would dominate the distance.
        samples = samples + torch.randn_like(samples) / FULL_SCALE
        adversarial = step >= adversarial_from
        judges = adversarial and step % config.discriminator_every == 0
        with torch.set_grad_enabled(not judges):
            # A step without a backward pass takes the bare module: others would wait for it.
            output = (codec if judges else trained)(samples, frozen_encoder=adversarial)
            distance = reconstruction_distance(samples, output)
        values = {"distance": distance, "regularisation": output.regularisation}
        if judges:
            real, fake = trained_discriminator(samples), trained_discriminator(output.samples)
            total = values["discriminator"] = discriminator_loss(real, fake)
        else:
            weight = regularisation_weight(config, codec.config, step)
            total = distance + weight * output.regularisation
            if adversarial:
                real, fake = discriminator(samples), discriminator(output.samples)
                values["adversarial"] = adversarial_loss(fake)
                values["features"] = feature_distance(real, fake)
                total = total + values["adversarial"] + config.feature_weight * values["features"]
        accelerator.backward(total)
        trainee = trained_discriminator if judges else trained
        values["gradient norm"] = accelerator.clip_grad_norm_(trainee.parameters(), config.max_norm)
        numbers = torch.stack([value.detach().float() for value in values.values()])
        report = dict(zip(values, accelerator.reduce(numbers, "mean").tolist(), strict=True))
        check_finite(
            sum(report.values()), report["gradient norm"], step=step, checkpoints=checkpoints
        )
        in_turn = optimizers[2:] if judges else optimizers[int(adversarial) : 2]
        for optimizer in in_turn:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        average.update(step)
        losses.append(report["distance"])
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if step % 10 == 0:
            tracker.numbers({f"train/{k}": v for k, v in report.items()}, step=step)

        if ((step + 1) % config.evaluate_every == 0 or step + 1 == config.steps) and rank == 0:
            with average.swapped():
                error = evaluate(codec, corpus.held_out, tracker, step=step + 1)
                averaged = {name: value.clone() for name, value in codec.state_dict().items()}
            state = {
                "settings": settings,
                "codec": codec.state_dict(),
                "average": averaged,
                "discriminator": discriminator.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            # The distance alone does not judge what a discriminator adds.
            checkpoints.save(state, step=step + 1, loss=None if adversarial else error)
    if rank == 0:
        with average.swapped():
            report_on = finish(codec, corpus, config)
        tracker.text("latents", str(report_on), step=config.steps)
        print(f"Latents: {report_on}.")
        print(f"Wrote the codec to {config.out}. Try: lm-audio transfer FILE --codec {config.out}")
    tracker.close()
    return losses


def reconstruction_distance(samples: Tensor, output: RaveOutput) -> Tensor:
    """The spectral distance of waveforms [B, C, N] plus that of their bands."""
    whole = spectral_distance(output.samples, samples)
    made, true = output.bands.transpose(1, 2), output.true_bands.transpose(1, 2)
    return whole + spectral_distance(made, true)


def regularisation_weight(config: Config, shape: RaveConfig, step: int) -> float:
    """Rises exponentially for a Gaussian model, so that it first learns to reconstruct."""
    if shape.bottleneck == "discrete":
        return config.commitment_weight
    share = min(1.0, step / max(1, config.divergence_steps))
    ratio = config.divergence_weight / config.divergence_start
    return config.divergence_start * float(ratio**share)


@torch.no_grad()
def evaluate(codec: RaveCodec, clips: list[Recording], tracker: Tracker, *, step: int) -> float:
    """The mean spectral distance on the first seconds of up to 12 held-out clips of each kind."""
    codec.eval()
    device = codec.latent_mean.device
    errors: dict[str, list[float]] = {}
    for kind in sorted({clip.kind for clip in clips}):
        for number, clip in enumerate([clip for clip in clips if clip.kind == kind][:12]):
            samples = as_samples(clip, codec, seconds=EVALUATED_SECONDS).to(device)
            output = codec(samples, sample=False)
            error = spectral_distance(output.samples, samples)
            errors.setdefault(kind, []).append(error.item())
            if number == 0:
                tracker.sound(f"held out/{kind}", output.samples[0], codec.sample_rate, step=step)
    codec.train()
    report = {kind: sum(values) / len(values) for kind, values in errors.items()}
    tracker.held_out(report, step=step)
    return sum(report.values()) / len(report)


def finish(codec: RaveCodec, corpus: Corpus, config: Config) -> LatentReport:
    """Analyses the latents of training sounds, adds a quantiser, saves the model."""
    codec.eval()
    device, left, sounds = codec.latent_mean.device, config.analysed_seconds, []
    for index in torch.randperm(len(corpus.train), generator=torch.Generator().manual_seed(0)):
        if left <= 0:
            break
        samples = as_samples(corpus.train[int(index)], codec, seconds=left)
        sounds.append(samples.to(device))
        left -= samples.shape[2] / codec.sample_rate
    if codec.config.bottleneck == "discrete":
        codec.set_codebooks(codec.trained_codebooks())
        report = describe_latents(codec, torch.cat([frames_of(codec, s) for s in sounds]))
    else:
        frames = analyse_latents(codec, sounds)
        report = add_codebooks(
            codec,
            frames,
            fidelity=config.fidelity,
            num_codebooks=config.num_codebooks,
            codebook_size=config.codebook_size,
            seed=config.seed,
        )
    save_rave(codec, config.out)
    return report


def as_samples(clip: Recording, codec: RaveCodec, *, seconds: float) -> Tensor:
    """The first seconds of a clip, filled to whole frames: [1, 1, N]."""
    length = max(1, int(seconds * codec.sample_rate))
    samples = torch.from_numpy(clip.samples[:length]).float() / FULL_SCALE
    return nn.functional.pad(samples, (0, -len(samples) % codec.hop_length))[None, None]


def take_weights(codec: RaveCodec, source: RaveCodec) -> None:
    """Copies the weights of a loaded model to a trainable one of the same shape."""
    with torch.no_grad():
        for layer, other in zip(codec.layers(), source.layers(), strict=True):
            layer.weight = other.weight.detach()  # type: ignore[assignment]
        for name in ("latent_mean", "latent_pca", "fidelity", "codebooks"):
            getattr(codec, name).copy_(getattr(source, name))
        codec.pqmf.filters.copy_(source.pqmf.filters)
        if codec.quantizer is not None:
            for layer, book in zip(codec.quantizer.layers, source.codebooks, strict=True):
                layer._codebook.embed.copy_(book[None])
                layer._codebook.embed_avg.copy_(book[None])
                layer._codebook.cluster_size.fill_(1)
                layer._codebook.initted.fill_(True)


def cost(config: Config) -> str:
    """The cost of a step that trains the decoder against the discriminator."""
    shape = config.shape()
    with torch.device("meta"):
        codec = RaveCodec(shape, trainable=False)
        discriminator = WaveformDiscriminator(DISCRIMINATORS[config.preset], num_channels=1)
        modules = nn.ModuleList([codec.encoder, codec.decoder, discriminator])
    remove_weight_norms(discriminator)
    num_frames = int(config.seconds * codec.frame_rate)

    def loss() -> Tensor:
        bands = torch.zeros(1, num_frames * shape.frame_rows, shape.num_bands)
        made = codec.decoder(codec.encoder(bands)[..., : shape.latent_size])
        samples = made.flatten(1)[:, None]
        real, fake = discriminator(torch.zeros_like(samples)), discriminator(samples)
        return adversarial_loss(fake) + feature_distance(real, fake) + made.square().mean()

    one = step_cost(modules, loss)
    return cost_table(modules, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
