"""Trains our acoustic stage: text and semantic tokens become the tokens of the codec.

    python recipes/train_acoustic.py --preset tiny             # under a minute, made-up sounds
    python recipes/train_acoustic.py --data shards --out runs/acoustic --semantic runs/semantic
    accelerate launch --config_file recipes/fsdp.yaml recipes/train_acoustic.py ...   # a cluster

`--data` is what recipes/tokenize_dataset.py wrote, with acoustic and semantic tokens. `OUT/stage`
is the trained stage; given the semantic stage, `OUT/model` is a whole model for `lm_audio.load`.
A run that was stopped goes on when it is started again, with the losses that it would have had.
What a preset takes: `--dry-run`.
"""

import dataclasses
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.protocol import AcousticTokenizer
from audio_tokenizers.semantic.tokenizer import load_feature_tokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.shards import Shards
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import Stage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.saving.stage_folder import read_stage, write_stage
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
from lm_audio.training.stage_batches import Dropout, StageBatches
from lm_audio.training.text import chosen_text
from lm_audio.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/acoustic")
    codec: Path = CODEC_FOLDER
    """The one that made the acoustic tokens."""
    semantic: Path | None = None
    """The folder of a trained semantic stage, to write a whole model with."""
    semantic_tokenizer: Path | None = None
    """The one that made the semantic tokens, for models that continue sound."""
    t5: str | None = None
    """A folder or hub id of a T5 that reads the captions; by default a small encoder learns to."""
    text_encoder: Path | None = None
    """A folder of recipes/train_text_encoder.py; it reads the captions, and is not trained here."""
    context_seconds: float = 10.0
    text_dropout: float = 0.1
    """How often the text is forgotten, which guidance needs."""
    semantic_dropout: float = 0.05


SHAPES = {  # of the stage, and of the encoder that reads its captions
    "tiny": (
        presets.tiny().transformer,
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "default": (
        presets.compact(dim=256, num_layers=6, dropout=0.0),
        presets.compact(dim=128, num_layers=3, reads=True),
    ),
    "small": (
        presets.compact(dim=512, num_layers=8),
        presets.compact(dim=256, num_layers=4, reads=True),
    ),
    "paper": (
        presets.medium().transformer,
        presets.compact(dim=512, num_layers=6, reads=True),
    ),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        tokens_per_batch=1600,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
        context_seconds=2.0,
        evaluate_every=30,
        evaluate_batches=2,
        save_every=20,
    ),
    "default": Config(
        preset="default",
        steps=6_000,
        tokens_per_batch=12_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=200,
        evaluate_every=250,
        save_every=250,
    ),
    "small": Config(),
    "paper": Config(
        preset="paper",
        context_seconds=30.0,
        tokens_per_batch=48_000,
        steps=500_000,
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
    assemble = whole_model(config, shards, codec)
    assemble(stage)  # mistakes are told now
    stage.model.transformer.recomputes = config.recompute
    dropout = Dropout(joint=config.text_dropout, each={"semantic": config.semantic_dropout})
    batches = partial(StageBatches, stage, source=source, tokens=config.tokens_per_batch)
    learned = batches(shards, seed=config.seed, dropout=dropout)
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
                            save(whole, learned, assemble, config)
            tracker.numbers({"held out/loss": held_out_loss}, step=done)
            if processes.is_main:
                progress.write(f"step {done}: held-out loss {held_out_loss:.3f}")
        if held_out_loss is not None or done % config.save_every == 0:
            state = processes.state(module, optimizer, average)
            if processes.is_main:
                checkpoints.save({**state, "settings": settings}, step=done, loss=held_out_loss)
    if not losses and (best := checkpoints.best()):  # done before; other stages may be new
        processes.restore(checkpoints.read(best), module, optimizer, average)
        with average.in_place(), processes.whole_stage(module, stage) as whole:
            if processes.is_main:
                save(whole, learned, assemble, config)
    tracker.close()
    if processes.is_main:
        made = "stage" if config.semantic is None else "model"
        progress.write(
            f"The {made} is in {config.out / made}; the log: tensorboard --logdir {config.out}"
        )
    return losses


def build(config: Config, shards: Shards) -> tuple[Stage, Stage]:
    """Our two stages with new weights, for the tokens of the shards; only the second is trained."""
    semantic, acoustic = shards.streams["semantic"], shards.streams["acoustic"]
    transformer, reader = SHAPES[config.preset]
    text = chosen_text(
        shards, reader, vocab_size=4000, t5=config.t5, text_encoder=config.text_encoder
    )
    # Weights that are only counted take no memory.
    with torch.device("meta") if config.dry_run else nullcontext():
        source, stage = duet(
            semantic=presets.tiny().transformer,
            acoustic=transformer,
            text=text,
            num_semantic_tokens=semantic.vocabulary,
            semantic_rate=semantic.rate,
            num_codebooks=acoustic.num_codebooks,
            codebook_size=acoustic.vocabulary,
            frame_rate=acoustic.rate,
        )
    context = int(config.context_seconds * acoustic.rate)
    return source, dataclasses.replace(stage, context=context, keep=context // 3)


def listen(
    stage: Stage,
    source: Stage,
    codec: AcousticTokenizer,
    held_out: Shards,
    tracker: Tracker,
    step: int,
) -> None:
    """Logs what the stage makes of the captions and semantic tokens of held-out examples."""
    for index in range(min(3, len(held_out))):
        example = held_out[index]
        num_frames = min(heard_frames(stage), example.streams["acoustic"].shape[1])
        captions = example.conditions.get("text")
        text = captions[0] if isinstance(captions, list) and captions else captions
        tokens = sample_tokens(
            stage,
            num_frames=num_frames,
            seed=index,
            values={"text": text} if text else {},
            source=example.streams["semantic"][: source.num_codebooks],
        )
        samples = codec.decode(tokens[None].to("cpu"))[0]
        tracker.sound(f"sample {index}", samples, codec.sample_rate, step=step)


def whole_model(
    config: Config, shards: Shards, codec: AcousticTokenizer
) -> Callable[[Stage], AudioPipeline | None]:
    """Makes a model of an acoustic stage and the semantic one before it, if that is there."""
    if config.semantic is None:
        if config.semantic_tokenizer is not None:
            raise ValueError(
                "--semantic-tokenizer is for a whole model; give --semantic, too, or leave it out."
            )
        return lambda _: None
    earlier = read_stage(config.semantic / "stage", tokens=shards.identities)
    tokenizer = None
    if config.semantic_tokenizer is not None:
        tokenizer = load_feature_tokenizer(config.semantic_tokenizer)
        identity = shards.streams["semantic"].identity
        check_identity(tokenizer.identity, identity, option="--semantic-tokenizer")
    renderer = CodecRenderer(codec, num_codebooks=shards.streams["acoustic"].num_codebooks)
    return lambda stage: AudioPipeline(
        Model([earlier, stage], renderer, semantic_tokenizer=tokenizer)
    )


def save(
    stage: Stage,
    learned: StageBatches,
    assemble: Callable[[Stage], AudioPipeline | None],
    config: Config,
) -> None:
    write_stage(stage, config.out / "stage", tokens=learned.identities)
    if model := assemble(stage):
        model.save(config.out / "model")


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
