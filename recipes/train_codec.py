"""Trains the frame codec: sounds become a codec of 0.5 to 4 kb/s at 24 kHz.

    python recipes/train_codec.py --preset tiny                    # half a minute, made-up sounds
    python recipes/train_codec.py --data sounds/ --out runs/codec  # one GPU, or a patient CPU
    torchrun --nproc_per_node 8 recipes/train_codec.py --preset paper --data shards/

`--data` is a folder of audio of any format and rate, with subfolders by kind (speech, music, rain
...), a prepared corpus, or shards with samples. `--out` gets the codec, config.json and
model.safetensors, from the averaged weights: use it as `lm-audio encode --codec OUT`. The last
checkpoints and the best lie in OUT/checkpoints; a run that is started again goes on from there with
the losses it would have had.

Three phases: without the quantiser, with it, and with discriminators on top. How that came about:
docs/log.md. A step of the small preset takes 0.7 s on one core, 2.5 s with the discriminators, and
2.2 GB; `--dry-run` says what a preset takes on GPUs.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from tqdm import tqdm

from audio_tokenizers.acoustic.frame_codec import (
    FrameCodec,
    FrameCodecConfig,
    save_frame_codec,
    tiny,
)
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import FULL_SCALE, Corpus, Recording, SegmentSampler, load_corpora
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.code_usage import code_usage
from lm_audio.training.discriminators import (
    DiscriminatorConfig,
    Discriminators,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from lm_audio.training.loss_balancer import LossBalancer
from lm_audio.training.optimization import (
    Average,
    adamw,
    learning_rate_share,
    set_learning_rate,
)
from lm_audio.training.processes import Precision, new_accelerator
from lm_audio.training.settings import check_least
from lm_audio.training.spectral_distance import SpectralConfig, distance, energy_score, spectra
from lm_audio.training.step_cost import cost_table, step_cost
from lm_audio.training.tracking import Tracker

EVALUATED_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "small", "paper"] = "small"
    data: tuple[Path, ...] = ()
    """Where the sounds are, one folder or several; without any, the tiny preset makes sounds up."""
    out: Path = Path("runs/codec")
    """Takes the checkpoints, the log and the codec; a run that was stopped here goes on."""
    steps: int = 20_000
    batch_size: int = 12
    """Segments in a step, of all processes together."""
    seconds: float = 1.28
    """The length of a segment."""
    answers: int = 2
    """How often each segment is decoded, with other noise. 2: the energy score, for which noise is
    right or wrong like all else, at no cost that shows. 1: a plain distance, which leaves noise
    out, and so to the discriminators."""
    quantised_from: float = 0.25
    """The share of steps before the quantiser joins in. Phases are learned slowly and through it
    hardly at all; the codebooks then start from k-means over the latents of 16 batches."""
    adversarial_from: float = 0.5
    """The share of steps before the discriminators join in; 1 for never."""
    adversarial_weight: float = 1.0
    """How hard the discriminators pull, beside 1 for the reconstruction (EnCodec: about 3)."""
    feature_weight: float = 1.0
    """The same for the distance of their features (EnCodec: about 3)."""
    commitment_weight: float = 0.25
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    max_norm: float = 1.0
    """Gradients longer than this are shortened."""
    average_decay: float = 0.999
    """Of the averaged weights, which are those that are judged, heard and kept."""
    evaluate_every: int = 500
    """Steps from one evaluation and checkpoint to the next."""
    keep_last: int = 2
    """Checkpoints to keep, beside the best."""
    precision: Precision = "bfloat16"
    seed: int = 0
    dry_run: bool = False
    """Print what a run takes, memory and time, and stop."""

    def __post_init__(self) -> None:
        check_least(self, steps=1, batch_size=1, warmup_steps=0, evaluate_every=1, keep_last=1)
        if (
            self.answers < 1
            or not 0 <= self.quantised_from < 1
            or not 0 <= self.adversarial_from <= 1
        ):
            raise ValueError(
                f"Got answers={self.answers}, quantised_from={self.quantised_from} and "
                f"adversarial_from={self.adversarial_from}; expected 1 or more, a share below 1 "
                "and a share."
            )

    def lasting(self, corpus: Corpus) -> dict[str, Any]:
        """What must stay the same when a run goes on."""
        free = {"data", "out", "evaluate_every", "keep_last", "dry_run"}
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        return {**kept, "data": corpus.fingerprint}


SHAPES = {
    "tiny": (
        tiny(),
        DiscriminatorConfig(window_lengths=(256,), periods=(3,), spectrum_width=4, period_width=2),
    ),
    "small": (
        FrameCodecConfig(),
        DiscriminatorConfig(
            window_lengths=(1024,), periods=(2, 3, 5), spectrum_width=16, period_width=4
        ),
    ),
    # The tokens of AudioLM's codec, the width of Vocos, all discriminators of EnCodec and HiFi-GAN.
    "paper": (
        FrameCodecConfig(encoder_width=512, decoder_width=512, num_codebooks=12),
        DiscriminatorConfig(),
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
    "small": Config(),
    "paper": Config(
        preset="paper",
        steps=600_000,
        batch_size=64,
        seconds=1.0,
        adversarial_weight=3.0,
        feature_weight=3.0,
        learning_rate=3e-4,
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
    # What is closest before the last phase is not the best of the run.
    last_phase = adversarial_from if quantised_from < adversarial_from < steps else quantised_from
    codec_config, discriminator_config = SHAPES[config.preset]
    accelerator = new_accelerator(config.precision)
    device, rank = accelerator.device, accelerator.process_index
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {accelerator.num_processes} "
            "processes; choose a multiple of their number."
        )

    torch.manual_seed(config.seed)
    codec = FrameCodec(codec_config).to(device).train()
    discriminators = Discriminators(discriminator_config).to(device)
    optimizers = [
        adamw(module, learning_rate=config.learning_rate, weight_decay=0.01, betas=(0.8, 0.99))
        for module in (codec, discriminators)
    ]
    average = Average(codec, decay=config.average_decay)
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
    measure = SpectralConfig(sample_rate=codec.sample_rate)
    # Half the resolutions at each step, in turn, at half the cost.
    measures = [replace(measure, window_lengths=measure.window_lengths[i::2]) for i in (0, 1)]

    first_step, settings = 0, config.lasting(corpus)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        codec.load_state_dict(saved["average"])
        average.restart()
        codec.load_state_dict(saved["codec"])
        discriminators.load_state_dict(saved["discriminators"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        balancer.load_state_dict(saved["balancer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, trained_discriminators, *optimizers = accelerator.prepare(
        codec, discriminators, *optimizers
    )
    losses = []
    progress = tqdm(range(first_step, steps), initial=first_step, total=steps, disable=rank > 0)
    for step in progress:
        # All that a step draws belongs to its number, what the quantiser draws too.
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
        noise_starts = torch.randint(2**30, (config.answers,)).tolist()
        output = trained(samples, quantize=quantise, noise_starts=noise_starts)
        heard = torch.cat(output.reconstructions)  # [answers * B, 1, N]
        answers = heard.chunk(config.answers)
        score = energy_score(samples[:, 0], [each[:, 0] for each in answers], measures[step % 2])
        terms = {"reconstruction": score}
        if adversarial:
            # At one level: else quiet segments, whose logarithms are steep, would decide how hard
            # the reconstruction pulls, and loud ones how hard the discriminators do.
            level = samples.square().mean(2, keepdim=True).sqrt().clamp(min=1e-3)
            truth, answer = samples / level, answers[0] / level
            real = trained_discriminators(truth)
            told_apart = discriminator_loss(real, trained_discriminators(answer.detach()))
            accelerator.backward(told_apart)
            fake = discriminators(answer)
            terms["adversarial"] = adversarial_loss(fake)
            terms["features"] = feature_distance(real, fake)
        pull = (heard * balancer.gradient(terms, heard)).sum()
        accelerator.backward(pull + config.commitment_weight * output.commitment)
        values = {**terms, "commitment": output.commitment}
        values["gradient norm"] = accelerator.clip_grad_norm_(trained.parameters(), config.max_norm)
        if adversarial:
            values["discriminators"] = told_apart
            values["gradient norm of discriminators"] = accelerator.clip_grad_norm_(
                trained_discriminators.parameters(), config.max_norm
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
            with average.in_place():
                error = evaluate(codec, corpus.held_out, measure, tracker, step=step + 1)
                check_finite(error, report["gradient norm"], step=step, checkpoints=checkpoints)
                averaged = {name: value.clone() for name, value in codec.state_dict().items()}
                if codec.has_codebooks:
                    save_frame_codec(codec, config.out)
            checkpoints.save(
                {
                    "settings": settings,
                    "codec": codec.state_dict(),
                    "average": averaged,
                    "discriminators": discriminators.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "balancer": balancer.state_dict(),
                },
                step=step + 1,
                loss=error if step >= last_phase else None,
            )
    tracker.close()
    if rank == 0:
        print(f"The codec is in {config.out}; try: lm-audio encode SOUND --codec {config.out}")
    return losses


@torch.no_grad()
def evaluate(
    codec: FrameCodec,
    clips: list[Recording],
    measure: SpectralConfig,
    tracker: Tracker,
    *,
    step: int,
) -> float:
    """The mean distance to the first seconds of up to 12 held-out clips of each kind.

    Tracks and shows it for each kind through half and all codebooks (0: not quantised), and how
    much the codes are used.
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
            truth = filled.to(device)[None, None]
            if codec.has_codebooks:
                tokens = codec.encode(truth)
                for level, codes in enumerate(tokens[0].cpu()):
                    counts[level] += codes.bincount(minlength=codec.codebook_size)
                answers = {books: codec.decode(tokens[:, :books]) for books in (K // 2, K)}
            else:
                answers = {0: codec(truth, quantize=False).reconstructions[0]}
            for books, answer in answers.items():
                error = distance(spectra(answer[:, 0], measure), spectra(truth[:, 0], measure))
                errors.setdefault(f"{kind}/{books}", []).append(error.item())
            best = answers[max(answers)][0]  # [1, N]
            if number == 0 and best.isfinite().all():
                tracker.sound(f"held out/{kind}", best, codec.sample_rate, step=step)
    codec.train()
    report = {name: sum(values) / len(values) for name, values in errors.items()}
    whole = [value for name, value in report.items() if name.endswith(f"/{max(answers)}")]
    if codec.has_codebooks:
        usage = code_usage(counts)
        report |= {"share of codes used": usage.used, "perplexity": usage.perplexity}
    tracker.numbers({f"held out/{name}": value for name, value in report.items()}, step=step)
    shown = ", ".join(f"{name} {value:.3g}" for name, value in report.items())
    tqdm.write(f"step {step}: {shown}", file=sys.stderr)
    return sum(whole) / len(whole)


@torch.no_grad()
def start_codebooks(
    codec: FrameCodec, sampler: SegmentSampler, first: int, accelerator: Accelerator
) -> None:
    """Starts each codebook from k-means over the latents of 16 batches: one holds too few."""
    batches = [
        sampler.batch(
            first + i, part=accelerator.process_index, num_parts=accelerator.num_processes
        ).to(accelerator.device)
        for i in range(16)
    ]
    codec.quantizer(torch.cat([codec.encoder(samples) for samples in batches]))


def read_corpus(config: Config, sample_rate: int) -> Corpus:
    if config.data:
        return load_corpora(config.data, sample_rate=sample_rate)
    if config.preset != "tiny":
        raise ValueError(
            f"The preset {config.preset!r} needs sounds to learn from; give --data, a folder."
        )
    clips = synthetic_clips(num_clips=18, seconds=2.0, sample_rate=sample_rate, seed=0)
    return Corpus(train=clips[3:], held_out=clips[:3])


def cost(config: Config) -> str:
    """What a run takes, with the discriminators; choosing codes is little beside."""
    codec_config, discriminator_config = SHAPES[config.preset]
    with torch.device("meta"):
        codec, discriminators = FrameCodec(codec_config), Discriminators(discriminator_config)
        length = int(config.seconds * codec.frame_rate) * codec.hop_length
        samples = torch.zeros(1, 1, length)
    for layer in discriminators.modules():
        if is_parametrized(layer):  # torch 2.9 cannot count the norms of weights
            remove_parametrizations(layer, "weight")
    measure = SpectralConfig(sample_rate=codec.sample_rate)

    def loss() -> Tensor:
        output = codec(samples, quantize=False, noise_starts=range(config.answers))
        answers = output.reconstructions
        real, fake = discriminators(samples), discriminators(answers[0])
        return (
            energy_score(samples[:, 0], [each[:, 0] for each in answers], measure)
            + discriminator_loss(real, discriminators(answers[0].detach()))
            + adversarial_loss(fake)
            + feature_distance(real, fake)
        )

    one = step_cost([codec, discriminators], loss, items=1)
    return cost_table(one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
