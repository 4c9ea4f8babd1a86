"""Trains the frame codec: 0.5 to 3 kb/s at 24 kHz.

    python recipes/train_codec.py --preset tiny                    # half a minute, synthetic sounds
    python recipes/train_codec.py --data sounds/ --out runs/codec  # one GPU; slow on a CPU
    torchrun --nproc_per_node 8 recipes/train_codec.py --preset paper --data shards/

`--data` is a folder of audio of any format and rate, with one subfolder per kind (speech, music,
rain ...), a prepared corpus, or shards with samples. `--out` receives the codec (config.json and
model.safetensors, from the averaged weights); use it with `lm-audio encode --codec OUT`. The best
and the most recent checkpoints are in OUT/checkpoints. Run the same command again to resume an
interrupted run; the losses are the same as without the interruption.

Training has three phases: without the quantiser, with it, and with a discriminator. The losses
compare bands, 128 numbers every 10 ms; only decoding produces a waveform
(docs/adr/0002-frame-codec.md). A step of the default preset takes 0.65 s on one core, about 1 s
with the discriminator, and 1.5 GB; `--dry-run` estimates the cost on GPUs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    FrameCodecConfig,
    save_frame_codec,
    tiny,
)
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Recording, SegmentSampler
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.code_usage import code_usage
from lm_audio.training.discriminators import (
    Discriminator,
    DiscriminatorConfig,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from lm_audio.training.estimate import cost_table, step_cost
from lm_audio.training.loss_balancer import LossBalancer
from lm_audio.training.optimization import (
    EMA,
    Muon,
    adamw,
    learning_rate_share,
    linear_weights,
    set_learning_rate,
)
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import SoundSettings, read_corpus, remove_weight_norms
from lm_audio.training.tracking import Tracker

EVALUATED_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "paper"] = "default"
    out: Path = Path("runs/codec")
    """Folder for the codec, checkpoints and log; an interrupted run in it resumes."""
    start: Path | None = None
    """Folder of another run: start from its averaged weights and codebooks."""
    learns: Literal["all", "decoder"] = "all"
    """What to train; with "decoder" the tokens stay those of --start."""
    steps: int = 4_000
    batch_size: int = 24
    seconds: float = 1.28
    """Length of a segment in seconds."""
    quantised_from: float = 0.06
    """Share of steps before the quantiser is used; k-means over the latents of 16 batches then
    initialises its codebooks."""
    adversarial_from: float = 0.3
    """Share of steps before the discriminator is used; 1 turns it off."""
    low_share: float = 0.6
    """Share of the narrow low bands in the level loss. Errors there blur harmonics and make speech
    sound worse; errors in the bands above make words harder to understand."""
    texture_weight: float = 0.1
    """Weight of the roughness and noisiness losses, relative to 1 for the level loss."""
    adversarial_weight: float = 0.5
    """Weight of the adversarial gradient, relative to 1 for the reconstruction gradient."""
    feature_weight: float = 0.5
    """Weight of the feature matching gradient, relative to 1 for the reconstruction gradient."""
    commitment_weight: float = 0.01
    """Weight of the commitment loss. Higher values make latents easier to quantise but less
    informative."""
    learning_rate: float = 5e-3
    """Peak learning rate."""
    warmup_steps: int = 200
    evaluate_every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, warmup_steps=0)
        if self.learns == "decoder" and self.start is None:
            raise ValueError("--learns decoder needs --start, the run whose tokens it keeps.")
        shares = (self.quantised_from, self.adversarial_from, self.low_share)
        if not all(0 <= share <= 1 for share in shares) or self.quantised_from == 1:
            raise ValueError(
                f"Got quantised_from={self.quantised_from}, adversarial_from="
                f"{self.adversarial_from} and low_share={self.low_share}; expected values from 0 "
                "to 1, and quantised_from below 1."
            )


SHAPES = {
    "tiny": (tiny(), DiscriminatorConfig(widths=(4, 8, 8))),
    "default": (FrameCodecConfig(), DiscriminatorConfig()),
    # The tokens of AudioLM's codec.
    "paper": (
        FrameCodecConfig(
            hop_length=480,
            spectra_per_frame=2,
            encoder_width=512,
            encoder_layers=8,
            decoder_width=512,
            decoder_layers=8,
            num_codebooks=12,
        ),
        DiscriminatorConfig(widths=(64, 128, 256, 256)),
    ),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        batch_size=4,
        seconds=0.64,
        learning_rate=3e-3,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
    ),
    "default": Config(),
    "paper": Config(
        preset="paper",
        steps=600_000,
        batch_size=64,
        seconds=1.0,
        learning_rate=1e-3,
        warmup_steps=1000,
        evaluate_every=5000,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the reconstruction loss of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    steps = config.steps
    quantised_from, adversarial_from = (
        round(share * steps) for share in (config.quantised_from, config.adversarial_from)
    )
    # The losses of earlier phases are not comparable, so only the last phase decides the best.
    last_phase = adversarial_from if quantised_from < adversarial_from < steps else quantised_from
    codec_config, discriminator_config = SHAPES[config.preset]
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index

    torch.manual_seed(config.seed)
    codec = FrameCodec(codec_config).to(device).train()
    discriminator = Discriminator(discriminator_config).to(device)
    if config.learns == "decoder":
        codec.encoder.requires_grad_(False)
    common: Any = {
        "learning_rate": config.learning_rate,
        "weight_decay": 0.01,
        "betas": (0.8, 0.99),
    }
    optimizers = [Muon(codec, linear_weights(codec), **common), adamw(discriminator, **common)]
    average = EMA(codec, decay=config.average_decay)
    balancer = LossBalancer(
        {
            "reconstruction": 1.0,
            "adversarial": config.adversarial_weight,
            "features": config.feature_weight,
        }
    )
    corpus = read_corpus(config, codec.sample_rate)
    sampler = SegmentSampler(
        corpus.train,
        length=int(config.seconds * codec.frame_rate) * codec.hop_length,
        batch_size=config.batch_size,
        seed=config.seed,
    )

    weights = level_weights(codec_config, low_share=config.low_share).to(device)

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
        balancer.load_state_dict(saved["balancer"])
        first_step = latest.step
    elif config.start is not None:
        codec.load_state_dict(read_start(config.start))
        average.restart()

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, trained_discriminator, *optimizers = accelerator.prepare(
        codec, discriminator, *optimizers
    )
    losses = []
    progress = tqdm(range(first_step, steps), initial=first_step, total=steps, disable=rank > 0)
    for step in progress:
        # All random numbers of a step, the quantiser's included, depend on its number only.
        torch.manual_seed(seed_of(config.seed, step))
        share = learning_rate_share(
            step, steps=steps, warmup_steps=config.warmup_steps, schedule="cosine", final=0.01
        )
        for optimizer in optimizers:
            set_learning_rate(optimizer, share * config.learning_rate)
        quantise, adversarial = step >= quantised_from, step >= adversarial_from
        if quantise and not codec.has_codebooks:
            start_codebooks(codec, sampler, steps, accelerator)
        samples = sampler.batch(step, part=rank, num_parts=accelerator.num_processes).to(device)
        if config.learns == "all":
            output = trained(samples, quantize=quantise)
        else:
            output = trained(samples, num_codebooks=draw_num_codebooks(codec.num_codebooks))
        predicted = torch.stack([output.levels, output.roughness, output.noisiness])
        levels, roughness, noisiness = predicted.unbind()
        error = output.true_levels - levels
        noise = codec.bands.noise_in(error.detach(), output.true_levels)
        # L2 predicts the mean roughness; L1 the median noisiness, since false noise is audible.
        texture = F.mse_loss(roughness, output.true_roughness) + F.l1_loss(noisiness, noise)
        terms = {"reconstruction": (error.abs() * weights).mean() + config.texture_weight * texture}
        if adversarial:
            real = trained_discriminator(output.true_levels)
            discriminator_term = discriminator_loss(real, trained_discriminator(levels.detach()))
            accelerator.backward(discriminator_term)
            fake = discriminator(levels)
            terms["adversarial"] = adversarial_loss(fake)
            terms["features"] = feature_distance(real, fake)
        balanced = (predicted * balancer.gradient(terms, predicted)).sum()
        accelerator.backward(balanced + config.commitment_weight * output.commitment)
        values = {**terms, "commitment": output.commitment}
        values["gradient norm"] = accelerator.clip_grad_norm_(trained.parameters(), config.max_norm)
        if adversarial:
            values["discriminator"] = discriminator_term
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
            optimizer.zero_grad()
        average.update(step)
        losses.append(report["reconstruction"])
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if step % 10 == 0:
            tracker.numbers({f"train/{k}": v for k, v in report.items()}, step=step)

        if ((step + 1) % config.evaluate_every == 0 or step + 1 == steps) and rank == 0:
            with average.swapped():
                error = evaluate(codec, corpus.held_out, tracker, step=step + 1)
                check_finite(error, report["gradient norm"], step=step, checkpoints=checkpoints)
                averaged = {name: value.clone() for name, value in codec.state_dict().items()}
                if codec.has_codebooks:
                    save_frame_codec(codec, config.out)
            checkpoints.save(
                {
                    "settings": settings,
                    "codec": codec.state_dict(),
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
        print(f"Wrote the codec to {config.out}. Try: lm-audio encode FILE --codec {config.out}")
    return losses


@torch.no_grad()
def evaluate(
    codec: FrameCodec,
    clips: list[Recording],
    tracker: Tracker,
    *,
    step: int,
) -> float:
    """The mean level loss on the first seconds of up to 12 held-out clips of each kind.

    Logs and prints it per kind with half and with all codebooks (0: not quantised), and the usage
    of the codes.
    """
    codec.eval()
    device, K = next(codec.parameters()).device, codec.num_codebooks
    errors: dict[str, list[float]] = {}
    counts = torch.zeros(K, codec.codebook_size, dtype=torch.int64)
    length = int(EVALUATED_SECONDS * codec.frame_rate) * codec.hop_length
    for kind in sorted({clip.kind for clip in clips}):
        for number, clip in enumerate([clip for clip in clips if clip.kind == kind][:12]):
            samples = torch.from_numpy(clip.samples[:length]).float() / FULL_SCALE
            filled = F.pad(samples, (0, -len(samples) % (50 * codec.hop_length)))
            truth = codec.levels(filled.to(device)[None, None])
            latents = codec.encoder(truth)
            answers = {0: latents}
            if codec.has_codebooks:
                tokens = codec.quantize(latents, num_codebooks=K)
                for level, codes in enumerate(tokens[0].cpu()):
                    counts[level] += codes.bincount(minlength=codec.codebook_size)
                answers = {books: codec.dequantize(tokens[:, :books]) for books in (K // 2, K)}
            for books, answer in answers.items():
                error = F.l1_loss(codec.decoder(answer)[0], truth)
                errors.setdefault(f"{kind}/{books}", []).append(error.item())
            if number == 0 and codec.has_codebooks:
                decoded = codec.decode(tokens)[0]  # [1, N]
                if decoded.isfinite().all():
                    tracker.sound(f"held out/{kind}", decoded, codec.sample_rate, step=step)
    codec.train()
    report = {name: sum(values) / len(values) for name, values in errors.items()}
    whole = [value for name, value in report.items() if name.endswith(f"/{max(answers)}")]
    if codec.has_codebooks:
        usage = code_usage(counts)
        report |= {"share of codes used": usage.used, "perplexity": usage.perplexity}
    tracker.held_out(report, step=step)
    return sum(whole) / len(whole)


@torch.no_grad()
def start_codebooks(
    codec: FrameCodec, sampler: SegmentSampler, first: int, accelerator: Accelerator
) -> None:
    """Initialises each codebook by k-means over 16 batches of latents; one batch is too few."""
    batches = [
        sampler.batch(
            first + i, part=accelerator.process_index, num_parts=accelerator.num_processes
        ).to(accelerator.device)
        for i in range(16)
    ]
    codec.quantizer(torch.cat([codec.encoder(codec.levels(samples)) for samples in batches]))


def read_start(folder: Path) -> dict[str, Tensor]:
    """The averaged weights and the codebooks of another run's last checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints", keep_last=1)
    if (latest := checkpoints.latest()) is None:
        raise ValueError(f"No codec checkpoint in {folder}; pass the --out of another run.")
    return checkpoints.read(latest)["average"]


def level_weights(config: FrameCodecConfig, *, low_share: float) -> Tensor:
    """Weights of the bands [bands], 1 on average; the linear bands sum to `low_share` of them."""
    shares = torch.tensor([low_share, 1 - low_share])
    counts = torch.tensor([config.linear_bands, config.num_bands - config.linear_bands])
    return (shares / counts * config.num_bands).repeat_interleave(counts)


def draw_num_codebooks(available: int) -> int:
    """All codebooks in half of the steps, else a random number of them."""
    number = int(torch.randint(1, 2 * available + 1, ()))
    return min(number, available)


def cost(config: Config) -> str:
    """The cost of a run with the discriminator; spectra and quantiser are negligible."""
    codec_config, discriminator_config = SHAPES[config.preset]
    with torch.device("meta"):
        codec, discriminator = FrameCodec(codec_config), Discriminator(discriminator_config)
        num_spectra = int(config.seconds * codec.frame_rate) * codec_config.spectra_per_frame
        modules = nn.ModuleList([codec, discriminator])
    remove_weight_norms(discriminator)

    def loss() -> Tensor:
        truth = torch.zeros(1, num_spectra, codec_config.num_bands)
        levels, roughness, noisiness = codec.decoder(codec.encoder(truth))
        real, fake = discriminator(truth), discriminator(levels)
        return (
            F.l1_loss(levels, truth)
            + F.mse_loss(roughness, truth)
            + F.l1_loss(noisiness, truth)
            + discriminator_loss(real, discriminator(levels.detach()))
            + adversarial_loss(fake)
            + feature_distance(real, fake)
        )

    one = step_cost(modules, loss)
    return cost_table(modules, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
