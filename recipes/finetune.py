"""Fine-tunes a model on your own data: all weights of a stage, or LoRA adapters.

    python recipes/finetune.py --preset tiny              # under a minute, synthetic data and model
    python recipes/finetune.py --model musicgen-small --data shards --out runs/finetune
    python recipes/finetune.py --model musicgen-medium --data shards --lora 16 --learning-rate 2e-4

`--model` accepts any model that `lm_audio.load` reads and whose stages predict tokens: Duet,
AudioLM, and MusicGen and AudioGen in the transformers and audiocraft layouts. The tokenizers and
conditions stay the same, so `--data` must be shards that recipes/tokenize_dataset.py wrote with the
model's own codec. `OUT/model` is the fine-tuned model, under the licence of the original; with
`--lora`, `OUT/adapters` holds the adapters in peft's format.

Run the same command again to resume an interrupted run; the losses are the same as without the
interruption. `--dry-run` prints the memory and operations of a run. The preset `paper` is for
models with billions of weights on several devices.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from audio_tokenizers.acoustic.registry import load_codec
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.data.shards import Shards, acoustic_identity
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.families.audiocraft.stages import audiogen
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.token_stage import TokenStage
from lm_audio.loading import load
from lm_audio.model import Model, ModelCard
from lm_audio.networks import presets
from lm_audio.networks.token_lm import TokenLM
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.patterns import delayed
from lm_audio.pipeline import AudioPipeline
from lm_audio.pretrained import CODEC_FOLDER
from lm_audio.renderers.codec import CodecRenderer
from lm_audio.sampling import Sampling
from lm_audio.training.checkpoints import Checkpoints, check_finite
from lm_audio.training.estimate import print_estimate
from lm_audio.training.lora import add_adapters, merged, save_adapters
from lm_audio.training.objective import StageObjective
from lm_audio.training.optimization import EMA
from lm_audio.training.processes import Processes
from lm_audio.training.samples import NUM_SAMPLES, first_conditions, num_sample_frames
from lm_audio.training.settings import LanguageModelSettings
from lm_audio.training.stage_batches import Dropout, StageBatches
from lm_audio.training.text import own_text
from lm_audio.training.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/finetune")
    model: str | None = None
    """Model to start from: a folder, a name from `lm-audio models`, or a hub id. Not needed with
    --preset tiny."""
    text_encoder: str | None = None
    """Folder or hub id of the T5 for audiocraft checkpoints, which do not include it."""
    stage: str | None = None
    """Stage to train; required if the model has several."""
    lora: int | None = None
    """Rank of LoRA adapters, such as 16: train adapters instead of the stage's own weights."""
    lora_alpha: float | None = None
    """LoRA alpha: adapters are scaled by alpha / rank. Defaults to twice the rank."""
    learning_rate: float = 1e-5
    """Peak learning rate. High rates make a trained stage forget; use about 1e-4 with --lora."""
    steps: int = 5000
    warmup_steps: int = 100
    joint_dropout: float = 0.1
    """Share of examples that drop all conditions, for classifier-free guidance."""
    source_dropout: float = 0.0
    """Share of examples that drop the source stage's tokens, for guidance on them."""


PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        tokens_per_batch=1600,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
        evaluate_every=30,
        evaluate_batches=2,
        save_every=20,
    ),
    "small": Config(evaluate_every=500),
    "paper": Config(preset="paper", steps=20_000, recompute=True, evaluate_every=500),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    with processes.accelerator.main_process_first():
        model, folder = start(config)
    pipeline = load(model, device=str(processes.device), text_encoder=config.text_encoder)
    stage, source, dropout = choose_stage(pipeline, config)
    shards, held_out = Shards(folder), Shards(folder, "held_out")
    torch.manual_seed(config.seed)
    choose_weights(stage, config)
    if config.dry_run:
        print_estimate(stage, config, source=source)
        return []
    check_identities(pipeline, shards)
    stage.model.transformer.recomputes = config.recompute
    batches = partial(
        StageBatches, stage, source=source, tokens=config.tokens_per_batch, seed=config.seed
    )
    train_batches = batches(shards, dropout=dropout)
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
                held_out_loss = float(by_codebook.mean())
                with processes.gathered(module, stage) as whole:
                    if processes.is_main:
                        is_best = checkpoints.is_best(held_out_loss)
                        if is_best and config.lora is not None:
                            save_adapters(whole.model, config.out / "adapters")
                        with nullcontext() if config.lora is None else merged(whole.model):
                            now = with_stage(pipeline, whole)
                            log_clips(now, whole, held_out, tracker, done)
                            if is_best:
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
        out = config.out / "model"
        progress.write(f"Wrote the model to {out}. View the log: tensorboard --logdir {config.out}")
        if "text" in pipeline.conditions:
            progress.write(f'Try: lm-audio generate "rain" --model {out}')
    return losses


def start(config: Config) -> tuple[str | Path, tuple[Path, ...] | Path]:
    """The model to start from and the data; both are synthetic with the preset tiny."""
    if config.lora is None and config.lora_alpha is not None:
        raise ValueError("--lora-alpha has no effect without --lora; pass --lora or remove it.")
    if config.model is not None:
        if not config.data:
            raise ValueError(
                "No training data; pass --data with shards that recipes/tokenize_dataset.py wrote "
                "with the model's codec."
            )
        return config.model, config.data
    if config.preset != "tiny":
        raise ValueError("No model to start from; pass --model, or try --preset tiny.")
    model, folder = (config.out / "made-up" / part for part in ("model", "data"))
    data = config.data or folder
    if (model / "config.json").is_file():
        return model, data
    codec = load_codec(CODEC_FOLDER)
    make_up_shards(folder, codec)
    K, rate = codec.num_codebooks, Fraction(codec.sample_rate, codec.hop_length)
    lm = presets.tiny(num_streams=K, vocab_size=codec.codebook_size)
    reader = TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False)
    torch.manual_seed(config.seed)
    text = own_text(Shards(folder), reader, vocab_size=4000)
    stages = audiogen(
        TokenLM(lm),
        pattern=delayed(range(K)),
        conditioners=Conditioners({"text": text(lm.transformer.dim)}, {"text": "cross"}),
        frame_rate=rate,
        window_frames=int(2 * rate),
        overlap_frames=int(rate),
        sampling=Sampling(),
    )
    AudioPipeline(Model(stages, CodecRenderer(codec))).save(model)
    return model, data


def choose_stage(
    pipeline: AudioPipeline, config: Config
) -> tuple[LMStage, LMStage | None, Dropout]:
    """The stage to train, the stage whose tokens condition it, and how often conditions drop."""
    stage = find_stage(pipeline, config.stage)
    if stage.source is None:
        if config.source_dropout:
            raise ValueError(
                f"--source-dropout has no effect: the {stage.name} stage has no source stage; "
                "remove it."
            )
        return stage, None, Dropout(joint=config.joint_dropout)
    each = {stage.source.condition: config.source_dropout}
    source = find_stage(pipeline, stage.source.stage)
    return stage, source, Dropout(joint=config.joint_dropout, each=each)


def find_stage(pipeline: AudioPipeline, name: str | None) -> LMStage:
    """The named stage, or the only one; raises ValueError if it cannot be trained."""
    names = ", ".join(pipeline.stages)
    if name is None and len(pipeline.stages) > 1:
        raise ValueError(f"The model has the stages {names}; choose one with --stage.")
    if name is not None and name not in pipeline.stages:
        raise ValueError(f"Unknown stage {name!r}. Choose one of: {names}.")
    stage = pipeline.stages[name] if name is not None else next(iter(pipeline.stages.values()))
    if not isinstance(stage, LMStage):
        others = [x.name for x in pipeline.stages.values() if isinstance(x, LMStage)]
        hint = f"choose one of: {', '.join(others)}" if others else "the model has none"
        raise ValueError(
            f"The {stage.name} stage is no language model, which this recipe fine-tunes; {hint}."
        )
    return stage


def choose_weights(stage: LMStage, config: Config) -> None:
    """Marks the weights to train: all of the stage's, or those of new adapters."""
    if config.lora is None:
        stage.model.requires_grad_(True)
        stage.conditioners.requires_grad_(True)
        return
    stage.conditioners.requires_grad_(False)
    alpha = 2.0 * config.lora if config.lora_alpha is None else config.lora_alpha
    add_adapters(stage.model, rank=config.lora, alpha=alpha)


def check_identities(pipeline: AudioPipeline, shards: Shards) -> None:
    """Raises ValueError unless the data's tokens are those of the model."""
    renderer, semantic = pipeline.renderer, pipeline.semantic_tokenizer
    assert isinstance(renderer, CodecRenderer)
    token_sets = renderer.num_channels // renderer.codec.num_channels
    codec = renderer.codec.identity
    expected = {"acoustic": acoustic_identity(codec, token_sets=token_sets)}
    if semantic is not None:
        expected["semantic"] = semantic.identity
    for kind, identity in expected.items():
        found = shards.streams[kind].identity if kind in shards.streams else identity
        if found != identity:
            raise ValueError(
                f"The {kind} tokens in the data come from {found}, but the model uses {identity}; "
                "run recipes/tokenize_dataset.py with the model's tokenizers."
            )


def with_stage(pipeline: AudioPipeline, stage: TokenStage) -> AudioPipeline:
    """The model with a new stage. Only the licence of its card still applies."""
    model = pipeline.model.with_stage(stage)
    return AudioPipeline(replace(model, card=ModelCard(licence=model.card.licence)))


def log_clips(
    model: AudioPipeline, stage: TokenStage, held_out: Shards, tracker: Tracker, step: int
) -> None:
    """Logs clips that the whole model generates for the conditions of held-out examples."""
    duration = float(num_sample_frames(stage) / stage.frame_rate)
    for index in range(min(NUM_SAMPLES, len(held_out))):
        given = first_conditions(held_out.conditions[index], model.conditions)
        text = given.pop("text", None)
        clip = model.generate(text, duration=duration, seed=index, conditions=given)
        tracker.sound(f"sample {index}", clip.samples, clip.sample_rate, step=step)


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
