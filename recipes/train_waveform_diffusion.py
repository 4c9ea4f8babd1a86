"""Trains a model of one kind of sound, without prompts: Dance Diffusion.

    python recipes/train_waveform_diffusion.py --preset tiny         # seconds, synthetic sounds
    python recipes/train_waveform_diffusion.py --data sounds/ --out runs/sounds      # a GPU
    python recipes/train_waveform_diffusion.py --data drums/ --start harmonai/maestro-150k \\
        --learning-rate 4e-5 --steps 5000                            # fine-tunes a model
    torchrun --nproc_per_node 8 recipes/train_waveform_diffusion.py --preset paper --data shards/

`--data` is a folder of audio of any format and rate, a prepared corpus, or shards with samples; it
is read in mono. `OUT/model` is the best model so far, with averaged weights, for `lm_audio.load`
and diffusers; `OUT/demos` has clips from each evaluation. Run the same command again to resume an
interrupted run; the losses are the same as without the interruption.

A U-Net learns to predict v (arXiv 2202.00512) of waveforms at all noise levels. The preset paper
has the shape and the segments of the published models.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.corpus import Recording, SegmentSampler
from lm_audio.families.dance_diffusion.layout import read_dance_diffusion, write_dance_diffusion
from lm_audio.families.dance_diffusion.stages import dance_diffusion
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.loading import find_checkpoint
from lm_audio.networks.condition import Fused
from lm_audio.networks.unet1d import UNet1d, UNet1dConfig
from lm_audio.sampling import Denoising
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.diffusion_batches import NUM_BINS
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.estimate import cost_table, step_cost
from lm_audio.training.latents import sample_latents
from lm_audio.training.optimization import EMA, adamw, learning_rate_share, set_learning_rate
from lm_audio.training.settings import check_least
from lm_audio.training.sound_settings import SoundSettings, read_corpus
from lm_audio.training.tracking import Tracker
from lm_audio.training.waveform_batches import WaveformBatches


@dataclass(frozen=True, kw_only=True)
class Config(SoundSettings):
    preset: Literal["tiny", "default", "paper"] = "default"
    out: Path = Path("runs/waveform_diffusion")
    """Folder for the model, checkpoints, demos and log; an interrupted run in it resumes."""
    start: str | None = None
    """Folder, name or hub id of a Dance Diffusion model to fine-tune. Its shape, rate and channels
    replace those of the preset."""
    sample_rate: int | None = None
    """Samples per second of a new model; defaults to the preset's."""
    channels: int | None = None
    """Channels of a new model; 1 by default. All channels of the training sounds are the same."""
    window: int | None = None
    """Samples per segment and of the model's windows; defaults to those of the preset or of the
    start. Rounded up to a length that the network takes."""
    steps: int = 100_000
    batch_size: int = 8
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    warmup_steps: int = 100
    average_decay: float = 0.9999
    recompute: bool = False
    """Recompute activations in the backward pass: a third more time, much less memory."""
    evaluate_batches: int = 8
    """Batches of held-out segments per evaluation."""
    demos: int = 3
    """Clips to generate at each evaluation."""
    demo_steps: int = 50
    """Denoising steps of those clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, steps=1, warmup_steps=0, evaluate_batches=1, demos=0, demo_steps=1)
        if self.start is not None and (self.sample_rate, self.channels) != (None, None):
            raise ValueError(
                "--sample-rate and --channels have no effect with --start, whose model has its "
                "own; remove them."
            )


def shape_of(widths: tuple[int, ...], *, num_attending: int) -> UNet1dConfig:
    return UNet1dConfig(in_channels=1, out_channels=1, widths=widths, num_attending=num_attending)


SHAPES = {  # with the rate and the samples of a segment
    "tiny": (shape_of((32, 32, 64), num_attending=1), 8_000, 2_048),
    "default": (shape_of((64, 64, 128, 128, *[256] * 6), num_attending=4), 16_000, 65_536),
    "paper": (shape_of((128, 128, 256, 256, *[512] * 9), num_attending=5), 16_000, 65_536),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=5,
        average_decay=0.9,
        evaluate_every=20,
        evaluate_batches=2,
        demos=1,
        demo_steps=4,
        precision="float32",
    ),
    "default": Config(),
    "paper": Config(preset="paper", steps=1_000_000, batch_size=32, evaluate_every=5000),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    if config.dry_run:
        print(cost(config))
        return []
    accelerator = config.new_accelerator()
    device, rank = accelerator.device, accelerator.process_index
    torch.manual_seed(config.seed)
    stage = start_of(config)
    rate, channels = int(stage.makes.rate), stage.makes.width
    corpus = read_corpus(config, rate)
    batches, held_out = (
        batches_of(clips, stage, config, seed=config.seed + i)
        for i, clips in enumerate((corpus.train, corpus.held_out))
    )
    objective = DiffusionObjective(stage).to(device).train()
    network = network_of(stage)
    network.recomputes = config.recompute
    optimizer = adamw(
        objective, learning_rate=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.999)
    )
    average = EMA(network, decay=config.average_decay)

    first_step = 0
    settings = config.lasting(corpus) | {"window": stage.window_frames, "channels": channels}
    settings |= {"sample_rate": rate}
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        network.load_state_dict(saved["average"])
        average.restart()
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=rank == 0)
    trained, optimizer = accelerator.prepare(objective, optimizer)
    losses = []
    steps = range(first_step, config.steps)
    progress = tqdm(steps, initial=first_step, total=config.steps, disable=rank > 0)
    for step in progress:
        torch.manual_seed(seed_of(config.seed, step))
        share = learning_rate_share(
            step,
            steps=config.steps,
            warmup_steps=config.warmup_steps,
            schedule="cosine",
            final=1.0,  # constant, as the published models were trained
        )
        set_learning_rate(optimizer, share * config.learning_rate)
        batch = batches.batch(step, part=rank, num_parts=accelerator.num_processes).to(device)
        sums, counts = trained(batch), batch.counts(NUM_BINS)
        loss = sums.sum() / counts.sum()
        accelerator.backward(loss)
        norm = float(accelerator.clip_grad_norm_(trained.parameters(), config.max_norm))
        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
        check_finite(losses[-1], norm, step=step, checkpoints=checkpoints)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)

        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        if step % 10 == 0:
            numbers = {"loss": losses[-1], "gradient norm": norm}
            tracker.numbers({f"train/{k}": v for k, v in numbers.items()}, step=step)
        done = step + 1
        if (done % config.evaluate_every == 0 or done == config.steps) and rank == 0:
            with average.swapped():
                error = evaluate(objective, held_out, config, tracker, step=done)
                check_finite(error, norm, step=step, checkpoints=checkpoints)
                write_demos(stage, config, tracker, step=done)
                if checkpoints.is_best(error):
                    write_dance_diffusion(
                        config.out / "model",
                        network,
                        sample_rate=rate,
                        window=stage.window_frames,
                    )
                averaged = {name: x.clone() for name, x in network.state_dict().items()}
            checkpoints.save(
                {
                    "settings": settings,
                    "network": network.state_dict(),
                    "average": averaged,
                    "optimizer": optimizer.state_dict(),
                },
                step=done,
                loss=error,
            )
    tracker.close()
    if rank == 0:
        model = config.out / "model"
        print(f"Wrote the model to {model}. Try: lm-audio generate --model {model} -o sound.wav")
    return losses


def start_of(config: Config) -> DiffusionStage:
    """The stage of the model to fine-tune, or of a new one."""
    if config.start is not None:
        model = read_dance_diffusion(find_checkpoint(config.start).folder)
        network, rate = network_of(model.stages[0]), model.renderer.sample_rate
        window = config.window or model.stages[0].window_frames
    else:
        shape, rate, window = SHAPES[config.preset]
        channels = config.channels or 1
        network = UNet1d(replace(shape, in_channels=channels, out_channels=channels))
        rate, window = config.sample_rate or rate, config.window or window
    multiple = network.config.multiple
    window = -(-max(window, network.config.min_length) // multiple) * multiple
    (stage,) = dance_diffusion(network, sample_rate=rate, window=window).stages
    network.train().requires_grad_(True)
    assert isinstance(stage, DiffusionStage)
    return stage


def network_of(stage: object) -> UNet1d:
    assert isinstance(stage, DiffusionStage)
    assert isinstance(stage.network, UNet1d)
    return stage.network


def batches_of(
    clips: list[Recording], stage: DiffusionStage, config: Config, *, seed: int
) -> WaveformBatches:
    sampler = SegmentSampler(
        clips, length=stage.window_frames, batch_size=config.batch_size, seed=seed
    )
    return WaveformBatches(sampler, num_channels=stage.makes.width, seed=seed)


@torch.no_grad()
def evaluate(
    objective: DiffusionObjective,
    batches: WaveformBatches,
    config: Config,
    tracker: Tracker,
    *,
    step: int,
) -> float:
    """The mean loss on held-out segments, always the same ones; logs it by noise level, too."""
    sums, counts = torch.zeros(NUM_BINS), torch.zeros(NUM_BINS)
    device = next(objective.parameters()).device
    for number in range(config.evaluate_batches):
        batch = batches.batch(number).to(device)
        sums += objective(batch).cpu()
        counts += batch.counts(NUM_BINS).cpu()
    by_level = (sums / counts.clamp(min=1)).tolist()
    error = float(sums.sum() / counts.sum())
    report = {f"noise level {i}": value for i, value in enumerate(by_level)}
    tracker.held_out({"loss": error, **report}, step=step)
    return error


def write_demos(stage: DiffusionStage, config: Config, tracker: Tracker, *, step: int) -> None:
    """Generates clips of one window, always from the same noise."""
    sampling = Denoising(steps=config.demo_steps, solver="ipndm", guidance_scale=1.0)
    rate = int(stage.makes.rate)
    for number in range(config.demos):
        clip = sample_latents(
            replace(stage, sampling=sampling), num_frames=stage.window_frames, seed=number
        )
        samples = clip.cpu().clamp(-1, 1)
        tracker.sound(f"demo {number}", samples, rate, step=step)
        path = config.out / "demos" / f"step-{step:08}-{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, samples, rate)


def cost(config: Config) -> str:
    """The cost of a run."""
    with torch.device("meta"):
        stage = start_of(config)
    network = network_of(stage).to("meta")

    def loss() -> Tensor:
        x = torch.zeros(1, stage.makes.width, stage.window_frames)
        made: Tensor = network(x, torch.zeros(1), Fused())
        return made.square().mean()

    one = step_cost(network, loss)
    return cost_table(network, one, batch_size=config.batch_size, steps=config.steps)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
