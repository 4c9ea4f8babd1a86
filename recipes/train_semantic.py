"""Trains a semantic stage: text, or nothing, becomes the tokens that say what a sound is about.

    python recipes/train_semantic.py --preset tiny             # under a minute, made-up sounds
    python recipes/train_semantic.py --data shards --out runs/semantic
    python recipes/train_semantic.py --composition audiolm --preset paper --data shards

`--data` is what recipes/tokenize_dataset.py wrote, with semantic tokens. `OUT/stage` is the trained
stage; recipes/train_acoustic.py, or recipes/train_fine.py for AudioLM, makes a whole model of it.
A run that was stopped goes on when it is started again, with the losses that it would have had.
What a preset takes: `--dry-run`. AudioLM's batches of 256 are those of 16 devices.
"""

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.batches import seed_of
from lm_audio.data.shards import Shards
from lm_audio.families.audiolm.stages import audiolm
from lm_audio.families.duet.stages import duet
from lm_audio.generation.lm_stage import Stage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.saving.stage_folder import read_stage, write_stage
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.estimate import print_estimate
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import Average, learning_rate_share, set_learning_rate
from lm_audio.training.processes import Processes
from lm_audio.training.samples import heard_frames, sample_tokens
from lm_audio.training.settings import LanguageModelSettings, read_data
from lm_audio.training.stage_batches import Dropout, StageBatches
from lm_audio.training.text import chosen_text
from lm_audio.training.tracking import Tracker

MOST_MEASURED = 10_000  # examples, for the rate of tokens without repeats


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/semantic")
    composition: Literal["duet", "audiolm"] = "duet"
    """Conditioned on text, every frame a token; or AudioLM's: unconditional, without repeats."""
    codec: Path = CODEC_FOLDER
    """Makes samples audible."""
    acoustic: Path | None = None
    """The folder of a trained acoustic stage of our composition, to hear samples with."""
    t5: str | None = None
    """A folder or hub id of a T5 that reads the captions; by default a small encoder learns to."""
    text_encoder: Path | None = None
    """A folder of recipes/train_text_encoder.py; it reads the captions, and is not trained here."""
    context_seconds: float = 30.0
    text_dropout: float = 0.1
    """How often the text is forgotten, which guidance needs."""


SHAPES = {  # of the stage by the composition, and of the encoder that reads its captions
    "tiny": (
        {
            "duet": presets.tiny().transformer,
            "audiolm": presets.tiny(cross_attention=False).transformer,
        },
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "default": (
        {
            "duet": presets.compact(dim=256, num_layers=5, dropout=0.2),
            "audiolm": dataclasses.replace(
                presets.compact(dim=256, num_layers=5, dropout=0.2), cross_attention=False
            ),
        },
        presets.compact(dim=128, num_layers=3, reads=True),
    ),
    "small": (
        {
            "duet": presets.compact(dim=512, num_layers=8),
            "audiolm": dataclasses.replace(
                presets.compact(dim=512, num_layers=8), cross_attention=False
            ),
        },
        presets.compact(dim=256, num_layers=4, reads=True),
    ),
    "paper": (
        {
            "duet": presets.audiolm(vocab_size=1, cross_attention=True).transformer,
            "audiolm": presets.audiolm(vocab_size=1).transformer,
        },
        presets.compact(dim=512, num_layers=6, reads=True),
    ),
}
PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        tokens_per_batch=400,
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
        steps=3_000,
        tokens_per_batch=4_000,
        optimizer="muon",
        learning_rate=2e-3,
        warmup_steps=200,
        evaluate_every=250,
        save_every=250,
        context_seconds=10.0,
    ),
    "small": Config(tokens_per_batch=6_000),
    "paper": Config(
        preset="paper",
        steps=1_000_000,
        tokens_per_batch=12_000,
        warmup_steps=3000,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    codec = load_codec(config.codec)
    shards, held_out = read_data(config, codec)
    torch.manual_seed(config.seed)
    stage = build(config, shards)
    if config.dry_run:
        print_estimate(stage, config)
        return []
    acoustic = following_stage(config, stage, shards, codec, processes.device)
    stage.model.transformer.recomputes = config.recompute
    batches = partial(StageBatches, stage, tokens=config.tokens_per_batch)
    learned = batches(shards, seed=config.seed, dropout=Dropout(joint=config.text_dropout))
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
        numbers = {"train/loss": losses[-1], "train/gradient norm": norm, "train/rate": share}
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
                        listen(whole, acoustic, codec, held_out, tracker, done)
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
        following = "acoustic" if config.composition == "duet" else "coarse"
        progress.write(
            f"The stage is in {config.out / 'stage'}; the log: tensorboard --logdir {config.out}\n"
            f"Next, with the same data: recipes/train_{following}.py"
        )
    return losses


def build(config: Config, shards: Shards) -> Stage:
    """The first stage of the composition with new weights, for the semantic tokens of the shards.

    What follows it in the composition is made as small as it can be, and forgotten.
    """
    if "semantic" not in shards.streams:
        raise ValueError(
            f"The shards have {', '.join(shards.streams)} and no semantic tokens; make them with "
            "recipes/tokenize_dataset.py --semantic."
        )
    semantic = shards.streams["semantic"]
    transformers, reader = SHAPES[config.preset]
    transformer = transformers[config.composition]
    if config.composition == "audiolm":
        for option in ("t5", "text_encoder"):
            if getattr(config, option) is not None:
                name = "--" + option.replace("_", "-")
                raise ValueError(f"{name} has no effect: AudioLM takes no text; leave it out.")
        make = partial(
            audiolm,
            transformer,
            semantic_rate=rate_without_repeats(shards),
            num_coarse=1,
            num_fine=1,
        )
    else:
        text = chosen_text(
            shards, reader, vocab_size=4000, t5=config.t5, text_encoder=config.text_encoder
        )
        make = partial(
            duet,
            semantic=transformer,
            acoustic=presets.tiny().transformer,
            text=text,
            semantic_rate=semantic.rate,
            num_codebooks=1,
        )
    # Weights that are only counted take no memory.
    with torch.device("meta") if config.dry_run else nullcontext():
        stage = make(
            num_semantic_tokens=semantic.vocabulary, codebook_size=2, frame_rate=semantic.rate
        )[0]
    context = int(config.context_seconds * stage.frame_rate)
    return dataclasses.replace(stage, context=context, keep=context * stage.keep // stage.context)


def rate_without_repeats(shards: Shards) -> Fraction:
    """How many semantic tokens of a second differ from the one before, on average."""
    every = range(0, len(shards), -(-len(shards) // MOST_MEASURED))
    tokens = [shards.read(index, "semantic") for index in every]
    left = sum(torch.unique_consecutive(row, dim=1).shape[1] for row in tokens)
    share = Fraction(left, max(1, sum(row.shape[1] for row in tokens)))
    return (shards.streams["semantic"].rate * share).limit_denominator(1000)


def following_stage(
    config: Config,
    stage: Stage,
    shards: Shards,
    codec: AcousticTokenizer,
    device: torch.device,
) -> Stage | None:
    """What makes samples audible, if it is there."""
    if config.acoustic is None:
        return None
    if config.composition != "duet":
        raise ValueError(
            "--acoustic has no effect with the composition audiolm, whose coarse stage comes "
            "next; leave it out."
        )
    tokens = shards.identities | {"acoustic": codec.identity}
    acoustic = read_stage(config.acoustic / "stage", tokens=tokens, device=device)
    renderer = CodecRenderer(codec, num_codebooks=acoustic.num_codebooks)
    AudioPipeline(Model([stage, acoustic], renderer))  # tells whether they fit
    return acoustic


def listen(
    stage: Stage,
    acoustic: Stage | None,
    codec: AcousticTokenizer,
    held_out: Shards,
    tracker: Tracker,
    step: int,
) -> None:
    """Logs what the stage makes of held-out captions: its tokens, and sound if that can be."""
    for index in range(min(3, len(held_out))):
        captions = held_out.conditions[index].get("text")
        text = captions[0] if isinstance(captions, list) and captions else captions
        values = {"text": text} if text and "text" in stage.conditions else {}
        tokens = sample_tokens(stage, num_frames=heard_frames(stage), seed=index, values=values)
        tracker.text(f"sample {index}", " ".join(map(str, tokens[0].tolist())), step=step)
        if acoustic is None:
            continue
        num_frames = int(tokens.shape[1] / stage.frame_rate * acoustic.frame_rate)
        sound = sample_tokens(
            acoustic, num_frames=num_frames, seed=index, values=values, source=tokens
        )
        samples = codec.decode(sound[None].to("cpu"))[0]
        tracker.sound(f"sample {index}", samples, codec.sample_rate, step=step)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
