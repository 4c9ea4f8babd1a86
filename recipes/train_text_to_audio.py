"""Trains a model of AudioGen's and MusicGen's shape: text becomes all codebooks of a codec at once.

    python recipes/train_text_to_audio.py --preset tiny             # under a minute, made-up sounds
    python recipes/train_text_to_audio.py --data shards --out runs/text_to_audio
    python recipes/train_text_to_audio.py --preset paper --t5 google-t5/t5-large --data shards
    accelerate launch --config_file recipes/fsdp.yaml recipes/train_text_to_audio.py ... # a cluster

`--data` is what recipes/tokenize_dataset.py wrote, with acoustic tokens and captions; those of
stereo by a mono codec (its `--channels 2`) need `--channels 2` here too. `OUT/model` is a whole
model for `lm_audio.load`. `--labels label speaker` lets it be told these attributes as well.
A run that was stopped goes on when it is started again, with the losses that it would have had.
What a preset takes: `--dry-run`. `paper` is audiogen-medium (arXiv 2209.15352), with batches of 256
clips of 10 s on 16 devices.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.fuser import Conditioners, Fuse
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.data.batches import seed_of
from lm_audio.data.shards import Conditions, Shards, acoustic_identity
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.generation.lm_stage import Stage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM, TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import (
    Pattern,
    coarse_first,
    delayed,
    flattened,
    parallel,
    stereo,
    unrolled,
)
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
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
from lm_audio.training.samples import heard_frames
from lm_audio.training.settings import LanguageModelSettings, read_data
from lm_audio.training.stage_batches import Dropout, StageBatches
from lm_audio.training.text import own_text, t5_text
from lm_audio.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/text_to_audio")
    codec: Path = CODEC_FOLDER
    """The one that made the acoustic tokens."""
    channels: int | None = None
    """2 for stereo by a mono codec; the codec's own by default."""
    pattern: Literal["delayed", "parallel", "flattened", "unrolled", "coarse_first"] = "delayed"
    """How the codebooks are laid out; "flattened" and "unrolled" take one step for each token."""
    t5: str | None = None
    """A folder or hub id of a T5 that reads the captions; by default a small encoder learns to."""
    labels: tuple[str, ...] = ()
    """Attributes of the data that the model may be told, such as: label speaker."""
    context_seconds: float = 10.0
    joint_dropout: float = 0.1
    """How often all conditions are forgotten at once, which guidance needs."""
    label_dropout: float = 0.1
    """How often each of the labels is forgotten, so that it need not be given."""


SHAPES = {  # of the model, and of the encoder that reads its captions
    "tiny": (
        presets.tiny().transformer,
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "small": (
        presets.compact(dim=768, num_layers=12),
        presets.compact(dim=256, num_layers=4, reads=True),
    ),
    "paper": (
        presets.medium().transformer,
        presets.compact(dim=512, num_layers=6, reads=True),
    ),
}
PATTERNS: Mapping[str, Callable[[int, int], Pattern]] = {  # codebooks, and tokens of each
    "delayed": lambda K, _: delayed(range(K)),
    "parallel": lambda K, _: parallel(K),
    "flattened": lambda K, V: flattened(K, codebook_size=V),
    "unrolled": lambda K, _: unrolled(range(K)),
    "coarse_first": lambda K, _: coarse_first(K),
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
    "small": Config(),
    "paper": Config(
        preset="paper",
        steps=200_000,
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
    codec.to(str(processes.device))
    model = build(config, shards, held_out, codec)
    (stage,) = model.stages.values()
    assert isinstance(stage, Stage)
    if config.dry_run:
        print_estimate(stage, config)
        return []
    stage.model.transformer.recomputes = config.recompute
    each = dict.fromkeys(config.labels, config.label_dropout)
    dropout = Dropout(joint=config.joint_dropout, each=each)
    batches = partial(StageBatches, stage, tokens=config.tokens_per_batch)
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
                        now = AudioPipeline(Model([whole], model.renderer))
                        listen(now, held_out, tracker, done)
                        if checkpoints.is_best(held_out_loss):
                            now.save(config.out / "model")
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
            f"The model is in {config.out / 'model'}; the log: tensorboard --logdir {config.out}\n"
            f'Try: lm-audio generate "rain" --model {config.out / "model"}'
        )
    return losses


def build(
    config: Config, shards: Shards, held_out: Shards, codec: AcousticTokenizer
) -> AudioPipeline:
    """A model of one stage with new weights, for the tokens, captions and labels of the data."""
    if "acoustic" not in shards.streams:
        raise ValueError(
            f"The shards have {', '.join(shards.streams)} and no acoustic tokens; make them with "
            "recipes/tokenize_dataset.py."
        )
    acoustic = shards.streams["acoustic"]
    channels = CodecRenderer(codec, num_channels=config.channels).num_channels
    token_sets = channels // codec.num_channels
    identity = acoustic_identity(codec.identity, token_sets=token_sets)
    check_identity(identity, acoustic.identity, option="--codec with --channels")
    codebooks = acoustic.num_codebooks // token_sets  # of a channel
    renderer = CodecRenderer(codec, num_channels=channels, num_codebooks=codebooks)
    pattern = PATTERNS[config.pattern](codebooks, acoustic.vocabulary)
    pattern = stereo(pattern) if token_sets == 2 else pattern
    vocab_size = acoustic.vocabulary * (pattern.num_codebooks // pattern.num_streams)
    transformer, reader = SHAPES[config.preset]
    if config.t5 is not None:
        text = t5_text(config.t5)
    else:
        text = own_text(shards, reader, vocab_size=4000)
    labels = {
        name: labels_of([*shards.conditions, *held_out.conditions], name) for name in config.labels
    }
    context = int(config.context_seconds * acoustic.rate)
    lm = TokenLMConfig(
        transformer=transformer, num_streams=pattern.num_streams, vocab_size=vocab_size
    )
    # Weights that are only counted take no memory.
    with torch.device("meta") if config.dry_run else nullcontext():
        conditioners = {"text": text(transformer.dim)}
        for name, values in labels.items():
            conditioners[name] = LabelConditioner(values, transformer.dim)
        fuse: dict[str, Fuse] = dict.fromkeys(conditioners, "cross")
        stages = audiogen(
            TokenLM(lm),
            pattern=pattern,
            conditioners=Conditioners(conditioners, fuse),
            frame_rate=acoustic.rate,
            context=context,
            keep=context * 2 // 5,
            sampling=Sampling(),
        )
    return AudioPipeline(Model(stages, renderer))


def labels_of(conditions: Sequence[Conditions], name: str) -> list[str]:
    """All values of an attribute; what only held-out examples have must be known to judge them."""
    found = [each[name] for each in conditions if name in each]
    if name == "text" or not found or not all(isinstance(value, str) for value in found):
        given = [(key, value) for each in conditions for key, value in each.items()]
        known = {key for key, value in given if isinstance(value, str) and key != "text"}
        raise ValueError(
            f"The data has no labels {name!r}; it has: {', '.join(sorted(known)) or 'none'}."
        )
    return sorted(set(map(str, found)))


def listen(model: AudioPipeline, held_out: Shards, tracker: Tracker, step: int) -> None:
    """Logs what the model makes of the conditions of held-out examples."""
    (stage,) = model.stages.values()
    assert isinstance(stage, Stage)
    duration = float(heard_frames(stage) / stage.frame_rate)
    for index in range(min(3, len(held_out))):
        given = {
            name: value[0] if isinstance(value, list) else value
            for name, value in held_out.conditions[index].items()
            if name in stage.conditions and value
        }
        text = given.pop("text", None)
        clip = model.generate(
            None if text is None else str(text), duration=duration, seed=index, conditions=given
        )
        tracker.sound(f"sample {index}", clip.samples, clip.sample_rate, step=step)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
