"""Trains AudioLM's coarse stage: semantic tokens become the first codebooks of the codec.

    python recipes/train_coarse.py --preset tiny             # under a minute, made-up sounds
    python recipes/train_coarse.py --data shards --out runs/coarse
    accelerate launch --config_file recipes/fsdp.yaml recipes/train_coarse.py ...   # a cluster

`--data` is what recipes/tokenize_dataset.py wrote, with acoustic and semantic tokens. `OUT/stage`
is the trained stage, of which recipes/train_fine.py makes a whole model.
A run that was stopped goes on when it is started again, with the losses that it would have had.
What a preset takes: `--dry-run`. AudioLM's batches of 256 are those of 16 devices.
"""

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.shards import Shards, Stream
from lm_audio.families.audiolm.stages import audiolm
from lm_audio.generation.lm_stage import Stage
from lm_audio.networks import presets
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.saving.stage_folder import write_stage
from lm_audio.training.checkpoints import (
    Checkpoints,
    check_finite,
    check_identity,
    check_same_settings,
)
from lm_audio.training.estimate import print_estimate
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import Average, learning_rate_share, set_learning_rate
from lm_audio.training.processes import Processes
from lm_audio.training.samples import heard_frames, sample_tokens
from lm_audio.training.settings import LanguageModelSettings, read_data
from lm_audio.training.stage_batches import StageBatches
from lm_audio.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/coarse")
    codec: Path = CODEC_FOLDER
    """The one that made the acoustic tokens."""
    num_coarse: int = 4
    """How many codebooks are coarse; all others are for the fine stage."""
    context_seconds: float = 10.0


SHAPES = {
    "tiny": presets.tiny(cross_attention=False).transformer,
    "small": dataclasses.replace(presets.compact(dim=512, num_layers=8), cross_attention=False),
    "paper": presets.audiolm(vocab_size=1).transformer,
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        num_coarse=2,
        steps=60,
        tokens_per_batch=800,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
        context_seconds=2.0,
        evaluate_every=30,
        evaluate_batches=2,
        save_every=20,
    ),
    "small": Config(tokens_per_batch=4_000),
    "paper": Config(
        preset="paper",
        steps=1_000_000,
        tokens_per_batch=32_000,
        warmup_steps=3000,
        recompute=True,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    codec = load_codec(config.codec)
    shards, held_out = read_data(config, codec)
    torch.manual_seed(config.seed)
    source, stage = build(config, shards)
    if config.dry_run:
        print_estimate(stage, config, source=source)
        return []
    check_identity(codec.identity, shards.streams["acoustic"].identity, option="--codec")
    stage.model.transformer.recomputes = config.recompute
    batches = partial(StageBatches, stage, source=source, tokens=config.tokens_per_batch)
    learned = batches(shards, seed=config.seed, dropout=None)
    judged = batches(held_out, seed=config.seed, dropout=None)
    K = stage.num_codebooks

    objective = StageObjective(stage).train()
    optimizer = config.new_optimizer(objective)
    module, optimizer = processes.prepare(objective, optimizer)
    average = Average(module, decay=config.average_decay)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    first_step = 0
    settings = config.lasting(processes.batches_per_step, data=shards)
    if latest := checkpoints.latest():
        state = checkpoints.read(latest)
        check_same_settings(state["settings"], settings, path=latest.path)
        processes.restore(state, module, optimizer, average)
        first_step = latest.step
    tracker = Tracker(config.out / "log", after=first_step, active=processes.is_main)

    losses: list[float] = []
    steps = range(first_step, config.steps)
    taken = processes.batches(learned, steps=steps, num_workers=config.num_workers)
    progress = tqdm(steps, initial=first_step, total=config.steps, disable=not processes.is_main)
    for step, mine in zip(progress, taken, strict=True):
        share = learning_rate_share(
            step, steps=config.steps, warmup_steps=config.warmup_steps, schedule=config.schedule
        )
        set_learning_rate(optimizer, config.learning_rate * share)
        counts = processes.sum(torch.stack([batch.counts(K) for _, batch in mine]).sum(dim=0))
        sums = torch.zeros(K, device=processes.device)
        for number, batch in mine:
            torch.manual_seed(seed_of(config.seed, number))
            loss = module(batch.to(processes.device))
            scale = processes.count / counts.sum()
            processes.backward(module, loss.sum() * scale, is_last=batch is mine[-1][1])
            sums += loss.detach()
        sums = processes.sum(sums)
        losses.append(float(sums.sum() / counts.sum()))
        norm = processes.step(module, optimizer, max_norm=config.max_norm)
        check_finite(losses[-1], norm, step=step, checkpoints=checkpoints)
        average.update(step)

        done = step + 1
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        numbers = {f"train/codebook {k}": float(sums[k] / counts[k]) for k in range(K)}
        numbers |= {
            "train/loss": losses[-1],
            "train/gradient norm": norm,
            "train/rate": share,
        }
        tracker.numbers(numbers, step=done)
        held_out_loss = None
        if done % config.evaluate_every == 0 or done == config.steps:
            with average.in_place():
                num_batches = min(config.evaluate_batches, len(judged))
                held_out_loss = float(
                    processes.mean_loss(module, judged, num_batches=num_batches).mean()
                )
                with processes.whole_stage(module, stage) as whole:
                    if processes.is_main:
                        listen(whole, source, codec, held_out, tracker, done)
                        if checkpoints.is_best(held_out_loss):
                            write_stage(whole, config.out / "stage", tokens=learned.identities)
            tracker.numbers({"held out/loss": held_out_loss}, step=done)
            if processes.is_main:
                progress.write(f"step {done}: held-out loss {held_out_loss:.3f}")
        if held_out_loss is not None or done % config.save_every == 0:
            state = processes.state(module, optimizer, average)
            if processes.is_main:
                checkpoints.save({**state, "settings": settings}, step=done, loss=held_out_loss)
    tracker.close()
    if processes.is_main:
        progress.write(
            f"The stage is in {config.out / 'stage'}; the log: tensorboard --logdir {config.out}\n"
            f"Next, with the same data: recipes/train_fine.py --coarse {config.out}"
        )
    return losses


def build(config: Config, shards: Shards) -> tuple[Stage, Stage]:
    """AudioLM's first two stages with new weights; only the second is trained."""
    semantic, acoustic = (stream_of(shards, kind) for kind in ("semantic", "acoustic"))
    if not 1 <= config.num_coarse < acoustic.num_codebooks:
        raise ValueError(
            f"--num-coarse is {config.num_coarse} and the shards have {acoustic.num_codebooks} "
            "codebooks; give fewer than these, for the fine stage needs some."
        )
    # Weights that are only counted take no memory.
    with torch.device("meta") if config.dry_run else nullcontext():
        source, stage, _ = audiolm(
            SHAPES[config.preset],
            num_semantic_tokens=semantic.vocabulary,
            semantic_rate=semantic.rate,
            num_coarse=config.num_coarse,
            num_fine=acoustic.num_codebooks - config.num_coarse,
            codebook_size=acoustic.vocabulary,
            frame_rate=acoustic.rate,
        )
    context = int(config.context_seconds * stage.frame_rate)
    keep = context * stage.keep // stage.context
    return source, dataclasses.replace(stage, context=context, keep=keep)


def stream_of(shards: Shards, kind: str) -> Stream:
    if kind not in shards.streams:
        raise ValueError(
            f"The shards have {', '.join(shards.streams)} and no {kind} tokens; make them with "
            "recipes/tokenize_dataset.py."
        )
    return shards.streams[kind]


def listen(
    stage: Stage,
    source: Stage,
    codec: AcousticTokenizer,
    held_out: Shards,
    tracker: Tracker,
    step: int,
) -> None:
    """Logs what the stage makes of the semantic tokens of held-out examples."""
    for index in range(min(3, len(held_out))):
        example = held_out[index]
        semantic, acoustic = (example.streams[kind] for kind in ("semantic", "acoustic"))
        num_frames = min(heard_frames(stage), acoustic.shape[1])
        heard = -(-num_frames * semantic.shape[1] // acoustic.shape[1])
        tokens = sample_tokens(
            stage,
            num_frames=num_frames,
            seed=index,
            source=semantic[: source.num_codebooks, :heard],
        )
        samples = codec.decode(tokens[None].to("cpu"))[0]
        tracker.sound(f"sample {index}", samples, codec.sample_rate, step=step)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
