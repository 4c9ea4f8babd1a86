"""Trains one stage of a token language model: of Duet, AudioLM, AudioGen, MusicGen or SoundStorm.

    python recipes/train_stage.py --preset tiny     # under a minute, synthetic sounds
    python recipes/train_stage.py --family duet --stage semantic --data shards
    python recipes/train_stage.py --family duet --stage acoustic --data shards \\
        --semantic runs/semantic --semantic-tokenizer runs/semantic_codebook
    python recipes/train_stage.py --family audiocraft --preset paper --t5 google-t5/t5-large \\
        --data shards
    accelerate launch --config_file recipes/fsdp.yaml recipes/train_stage.py ...    # a cluster

| family     | stages                 | input -> output                                           |
|------------|------------------------|-----------------------------------------------------------|
| duet       | semantic, acoustic     | text -> semantic tokens -> all codebooks                  |
| audiolm    | semantic, coarse, fine | nothing -> semantic tokens -> first codebooks -> the rest |
| audiocraft | acoustic               | text and labels -> all codebooks                          |
| soundstorm | acoustic               | text, semantic tokens -> all codebooks, in parallel       |

`--family F --stage S --help` lists the options of that stage. `--data` takes shards from
recipes/tokenize_dataset.py; if they are stereo with a mono codec (its `--channels 2`), pass
`--channels 2` here, too. `OUT/stage` is the trained stage. With the output folders of the other
stages, the last stage of a family also writes `OUT/model`, a complete model for `lm_audio.load`.
SoundStorm's stage takes the place of the acoustic stages of Duet or, with `--after audiolm`, of
AudioLM: pass the folder of their semantic stage.

Run the same command again to resume an interrupted run; the losses are the same as without the
interruption. `--dry-run` prints the memory and operations of a run. The `paper` presets are AudioLM
(arXiv 2209.03143), with batches of 256 on 16 devices, and audiogen-medium (arXiv 2209.15352), with
batches of 256 clips of 10 s on 16 devices.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.cli.recipe import run_recipe
from lm_audio.generation.token_stage import TokenStage
from lm_audio.saving.folder import save_model
from lm_audio.saving.stage_folder import write_stage
from lm_audio.training.checkpoints import Checkpoints, check_finite
from lm_audio.training.estimate import print_estimate
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import EMA
from lm_audio.training.processes import Processes
from lm_audio.training.samples import log_samples
from lm_audio.training.settings import read_data
from lm_audio.training.stage_batches import StageBatches
from lm_audio.training.tracking import Tracker
from stage_builders.audiocraft import AudiocraftSettings, audiocraft_acoustic
from stage_builders.audiolm import (
    AudioLMCoarseSettings,
    AudioLMFineSettings,
    AudioLMSemanticSettings,
    audiolm_coarse,
    audiolm_fine,
    audiolm_semantic,
)
from stage_builders.duet import (
    DuetAcousticSettings,
    DuetSemanticSettings,
    duet_acoustic,
    duet_semantic,
)
from stage_builders.plan import StageData, StagePlan, StageSettings
from stage_builders.soundstorm import SoundStormSettings, soundstorm_acoustic

BUILDERS: Mapping[tuple[str, str], Callable[[Any, StageData], StagePlan]] = {
    ("duet", "semantic"): duet_semantic,
    ("duet", "acoustic"): duet_acoustic,
    ("audiolm", "semantic"): audiolm_semantic,
    ("audiolm", "coarse"): audiolm_coarse,
    ("audiolm", "fine"): audiolm_fine,
    ("audiocraft", "acoustic"): audiocraft_acoustic,
    ("soundstorm", "acoustic"): soundstorm_acoustic,
}
TINY: dict[str, Any] = {
    "preset": "tiny",
    "steps": 60,
    "learning_rate": 1e-2,
    "warmup_steps": 5,
    "average_decay": 0.9,
    "precision": "float32",
    "evaluate_every": 30,
    "evaluate_batches": 2,
    "save_every": 20,
}
DEFAULT: dict[str, Any] = {  # as the stages of the model in the package are trained
    "preset": "default",
    "optimizer": "muon",
    "learning_rate": 2e-3,
    "warmup_steps": 200,
    "evaluate_every": 250,
    "save_every": 250,
}
PAPER: dict[str, Any] = {"preset": "paper", "warmup_steps": 3000}
PRESETS: Mapping[str, Mapping[str, Mapping[str, StageSettings]]] = {  # by family and stage
    "duet": {
        "semantic": {
            "tiny": DuetSemanticSettings(**TINY, tokens_per_batch=400, context_seconds=2.0),
            "default": DuetSemanticSettings(
                **DEFAULT, steps=3_000, tokens_per_batch=4_000, context_seconds=10.0
            ),
            "small": DuetSemanticSettings(tokens_per_batch=6_000),
            "paper": DuetSemanticSettings(**PAPER, steps=1_000_000, tokens_per_batch=12_000),
        },
        "acoustic": {
            "tiny": DuetAcousticSettings(**TINY, tokens_per_batch=1600, context_seconds=2.0),
            "default": DuetAcousticSettings(**DEFAULT, steps=6_000, tokens_per_batch=12_000),
            "small": DuetAcousticSettings(),
            "paper": DuetAcousticSettings(
                **PAPER,
                steps=500_000,
                tokens_per_batch=48_000,
                context_seconds=30.0,
                recompute=True,
            ),
        },
    },
    "audiolm": {
        "semantic": {
            "tiny": AudioLMSemanticSettings(**TINY, tokens_per_batch=400, context_seconds=2.0),
            "default": AudioLMSemanticSettings(
                **DEFAULT, steps=3_000, tokens_per_batch=4_000, context_seconds=10.0
            ),
            "small": AudioLMSemanticSettings(tokens_per_batch=6_000),
            "paper": AudioLMSemanticSettings(**PAPER, steps=1_000_000, tokens_per_batch=12_000),
        },
        "coarse": {
            "tiny": AudioLMCoarseSettings(
                **TINY, tokens_per_batch=800, context_seconds=2.0, num_coarse=2
            ),
            "small": AudioLMCoarseSettings(tokens_per_batch=4_000),
            "paper": AudioLMCoarseSettings(
                **PAPER, steps=1_000_000, tokens_per_batch=32_000, recompute=True
            ),
        },
        "fine": {
            "tiny": AudioLMFineSettings(
                **TINY, tokens_per_batch=1600, context_seconds=0.5, num_coarse=2
            ),
            "small": AudioLMFineSettings(tokens_per_batch=4_000),
            "paper": AudioLMFineSettings(
                **PAPER, steps=1_000_000, tokens_per_batch=19_200, recompute=True
            ),
        },
    },
    "audiocraft": {
        "acoustic": {
            "tiny": AudiocraftSettings(**TINY, tokens_per_batch=1600, context_seconds=2.0),
            "small": AudiocraftSettings(),
            "paper": AudiocraftSettings(
                **PAPER, steps=200_000, tokens_per_batch=32_000, recompute=True
            ),
        },
    },
    "soundstorm": {
        "acoustic": {
            "tiny": SoundStormSettings(**TINY, tokens_per_batch=1600, context_seconds=2.0),
            "default": SoundStormSettings(**DEFAULT, steps=6_000, tokens_per_batch=12_000),
            "small": SoundStormSettings(),
            "paper": SoundStormSettings(
                **PAPER,
                steps=500_000,
                tokens_per_batch=48_000,
                context_seconds=30.0,
                recompute=True,
            ),
        },
    },
}


def main(config: StageSettings) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    codec = load_codec(config.codec)
    shards, held_out = read_data(config, codec)
    data = StageData(shards=shards, held_out=held_out, codec=codec, device=processes.device)
    torch.manual_seed(config.seed)
    plan = BUILDERS[config.family, config.stage](config, data)
    stage = plan.stage
    if config.dry_run:
        print_estimate(stage, config, source=plan.source)
        return []
    stage.model.transformer.recomputes = config.recompute
    batches = partial(
        StageBatches, stage, source=plan.source, tokens=config.tokens_per_batch, seed=config.seed
    )
    train_batches = batches(shards, dropout=plan.dropout)
    held_out_batches = batches(held_out, dropout=None)

    objective = StageObjective(stage).train()
    optimizer = config.new_optimizer(objective)
    module, optimizer = processes.prepare(objective, optimizer)
    average = EMA(module, decay=config.average_decay)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    settings = config.lasting(processes.batches_per_step, data=shards)
    first_step = processes.resume(checkpoints, settings, module, optimizer, average)
    tracker = Tracker(config.out / "log", after=first_step, active=processes.is_main)

    losses: list[float] = []
    steps = range(first_step, config.steps)
    shares = processes.batches(train_batches, steps=steps, num_workers=config.num_workers)
    progress = tqdm(steps, initial=first_step, total=config.steps, disable=not processes.is_main)
    for step, share in zip(progress, shares, strict=True):  # this process's share of the batches
        rate = config.schedule_learning_rate(optimizer, step)
        loss = processes.accumulate(
            module, share, num_codebooks=stage.num_codebooks, seed=config.seed
        )
        losses.append(loss.mean)
        norm = processes.step(module, optimizer, max_norm=config.max_norm)
        check_finite(losses[-1], norm, step=step, checkpoints=checkpoints)
        average.update(step)

        done = step + 1
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        numbers = {f"train/codebook {k}": each for k, each in enumerate(loss.by_codebook)}
        numbers |= {"train/loss": losses[-1], "train/gradient norm": norm, "train/rate": rate}
        tracker.numbers(numbers, step=done)
        held_out_loss = None
        if done % config.evaluate_every == 0 or done == config.steps:
            with average.swapped():
                by_codebook = processes.mean_loss(
                    module, held_out_batches, num_batches=config.evaluate_batches
                )
                held_out_loss = float(by_codebook.nanmean())
                with processes.gathered(module, stage) as whole:
                    if processes.is_main:
                        log_samples(
                            whole,
                            held_out_batches,
                            tracker,
                            step=done,
                            renderer=plan.renderer,
                            following=plan.following,
                        )
                        if checkpoints.is_best(held_out_loss):
                            save(whole, plan, config, tokens=train_batches.identities)
            tracker.numbers({"held out/loss": held_out_loss}, step=done)
            if processes.is_main:
                progress.write(f"step {done}: held-out loss {held_out_loss:.3f}")
        if held_out_loss is not None or done % config.save_every == 0:
            state = processes.state(module, optimizer, average)
            if processes.is_main:
                checkpoints.save({**state, "settings": settings}, step=done, loss=held_out_loss)
    if not losses and (best := checkpoints.best()):  # already trained; other stages may be new
        processes.restore(checkpoints.read(best), module, optimizer, average)
        with average.swapped(), processes.gathered(module, stage) as whole:
            if processes.is_main:
                save(whole, plan, config, tokens=train_batches.identities)
    tracker.close()
    if processes.is_main:
        progress.write(summary(plan, config))
    return losses


def save(
    stage: TokenStage, plan: StagePlan, config: StageSettings, *, tokens: dict[str, str]
) -> None:
    """Writes the stage and the complete model; a model with one stage is written only as a model.

    Args:
        tokens: identities of the tokenizers of the data, by kind.
    """
    if plan.model is None or len(plan.model.stages) > 1:
        write_stage(stage, config.out / "stage", tokens=tokens)
    if plan.model is not None:
        save_model(plan.model.with_stage(stage), config.out / "model")


def summary(plan: StagePlan, config: StageSettings) -> str:
    """The output paths and the next commands."""
    made = "stage" if plan.model is None else "model"
    lines = [f"Wrote the {made} to {config.out / made}. Log: tensorboard --logdir {config.out}"]
    if plan.next_stage is not None:
        command = f"recipes/train_stage.py --family {config.family} --stage {plan.next_stage}"
        lines.append(f"Next, with the same data: {command}")
    if plan.model is not None:
        text = '"rain" ' * ("text" in plan.stage.conditions)
        lines.append(f"Try: lm-audio generate {text}--model {config.out / made}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_recipe(main, PRESETS, options=("family", "stage", "preset"), description=__doc__)
