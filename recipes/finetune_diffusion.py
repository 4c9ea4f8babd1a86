"""Fine-tunes the denoising network of a diffusion model on your own sounds.

    python recipes/finetune_diffusion.py --start FOLDER --preset tiny       # synthetic sounds
    python recipes/finetune_diffusion.py --start riffusion/riffusion-model-v1 --data shards
    python recipes/finetune_diffusion.py --start stabilityai/stable-audio-open-1.0 --data shards \\
        --learning-rate 5e-5 --out runs/finetuned
    accelerate launch --num_processes 8 recipes/finetune_diffusion.py ...           # a cluster

`--start` accepts any diffusion model that `lm_audio.load` reads in diffusers' layout or in
lm-audio's own: AudioLDM, Dance Diffusion, Make-An-Audio, Riffusion, Stable Audio and latent flow.
`--data` takes shards with samples at the model's rate, from recipes/tokenize_dataset.py --codec
none --samples RATE. The text comes from their captions; text encoders, autoencoder and vocoder stay
as they are. `OUT/model` is the best model so far, with averaged weights, in the layout and under
the licence of the original.

A share of the examples has no conditions, for classifier-free guidance. Crops have the length of
the model's windows, or that of the longest clip if all are shorter. Run the same command again to
resume an interrupted run; the losses are the same as without the interruption.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from lm_audio.cli.recipe import run_recipe
from lm_audio.data.shards import SAMPLES, Shards
from lm_audio.families.family import Checkpoint
from lm_audio.families.table import FORMATS
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.loading import find_checkpoint, load
from lm_audio.model import Model, ModelCard
from lm_audio.saving.folder import MODEL_TYPE, save_model
from lm_audio.saving.replaced_network import replace_network
from lm_audio.training.diffusion_loop import DiffusionLoop
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.processes import Processes
from lm_audio.training.settings import TrainingSettings, check_least, read_data
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.window_batches import WindowBatches, training_window

Write = Callable[[DiffusionStage, Path], None]


@dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings):
    preset: Literal["tiny", "default"] = "default"
    data: tuple[Path, ...] = ()
    """One or more folders of shards with samples, from recipes/tokenize_dataset.py. The preset tiny
    uses synthetic sounds by default."""
    out: Path = Path("runs/finetuned")
    start: str | None = None
    """Folder, name or hub id of the model to start from."""
    batch_size: int = 8
    """Crops in a batch."""
    learning_rate: float = 1e-5
    """Peak learning rate. High rates make a trained network forget."""
    weight_decay: float = 0.01
    steps: int = 5000
    warmup_steps: int = 100
    evaluate_every: int = 500
    joint_dropout: float = 0.1
    """Share of examples that drop all conditions, for classifier-free guidance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, batch_size=1)


PRESETS = {
    "tiny": Config(
        preset="tiny",
        steps=60,
        learning_rate=3e-3,
        warmup_steps=5,
        average_decay=0.9,
        precision="float32",
        evaluate_every=30,
        evaluate_batches=2,
        save_every=20,
    ),
    "default": Config(),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    if config.start is None:
        raise ValueError("No model to start from; pass --start.")
    with processes.accelerator.main_process_first():
        checkpoint = find_checkpoint(config.start)
    check_layout(checkpoint)
    model = load(checkpoint.folder, device="cpu").model
    stage, renderer = trainable(model, config), model.renderer
    shards, held_out = read_sounds(config, renderer.sample_rate)
    hop = renderer.hop_length
    window = max(training_window(stage, one, hop_length=hop) for one in (shards, held_out))
    if config.dry_run:
        print_size(stage, window, config)
        return []
    torch.manual_seed(config.seed)
    write = writer(model, checkpoint)
    autoencoder = getattr(renderer, "autoencoder", None)
    if isinstance(autoencoder, nn.Module) and config.num_workers == 0:
        autoencoder.to(processes.device)  # in workers, it stays on the CPU
    batches = partial(
        WindowBatches,
        stage,
        renderer=renderer,
        window=window,
        batch_size=config.batch_size,
        seed=config.seed,
        logit_normal=stage.schedule.kind == "flow",
    )
    losses = DiffusionLoop(
        objective=DiffusionObjective(stage).train(),
        config=config,
        processes=processes,
        batches=batches(shards, dropout=Dropout(joint=config.joint_dropout)),
        held_out=batches(held_out, dropout=None),
        renderer=renderer,
        write=write,
        lasting={"renderer": renderer.identity, "window": window},
    ).run()
    if processes.is_main:
        text = '"rain" ' * ("text" in stage.conditions)
        print(
            f"Wrote the model to {config.out / 'model'}. Log: tensorboard --logdir {config.out}\n"
            f"Try: lm-audio generate {text}--model {config.out / 'model'}"
        )
    return losses


def check_layout(checkpoint: Checkpoint) -> None:
    """Raises ValueError for a layout that cannot be written with other weights."""
    found = FORMATS[checkpoint.format]
    if found.network is None and found.model_type != MODEL_TYPE:
        able = [name for name, one in FORMATS.items() if one.network is not None]
        raise ValueError(
            f"{checkpoint.hub_id or checkpoint.folder} has the layout {checkpoint.format}, which "
            f"this recipe does not write. It writes: {', '.join(able)}, {MODEL_TYPE}."
        )


def trainable(model: Model, config: Config) -> DiffusionStage:
    """The model's only stage, with weights of the network to train and all others frozen."""
    stage = model.stages[-1]
    if not isinstance(stage, DiffusionStage) or not isinstance(stage.network, nn.Module):
        raise ValueError(f"The model in {config.start} does not denoise; use recipes/finetune.py.")
    if len(model.stages) > 1 or stage.source is not None:
        names = ", ".join(one.name for one in model.stages)
        raise ValueError(
            f"The model in {config.start} has the stages {names}; this recipe trains models of a "
            "single stage only."
        )
    if model.renderer.encoder is None:
        raise ValueError(f"The model in {config.start} cannot encode sounds, so it has no targets.")
    for weight in (*stage.network.parameters(), *stage.network.buffers()):
        weight.data = weight.data.clone()  # mapped weights are not to be changed
    stage.conditioners.requires_grad_(False)
    stage.network.requires_grad_(True)
    able = [one for one in stage.network.modules() if hasattr(one, "recomputes")]
    if config.recompute and not able:
        raise ValueError("--recompute has no effect on this network; remove it.")
    for one in able:
        one.recomputes = config.recompute  # type: ignore[assignment]
    return stage


def read_sounds(config: Config, rate: int) -> tuple[Shards, Shards]:
    """The training and the held-out data; raises ValueError unless it is sound at this rate."""
    shards, held_out = read_data(config, sample_rate=rate)
    stream = shards.streams.get(SAMPLES)
    if stream is None or stream.rate != rate:
        found = "no samples" if stream is None else f"samples at {stream.rate} Hz"
        raise ValueError(
            f"The shards have {found}, but the model needs {rate} Hz. Make them with "
            f"recipes/tokenize_dataset.py --codec none --samples {rate}."
        )
    return shards, held_out


def writer(model: Model, checkpoint: Checkpoint) -> Write:
    """Writes the model with other weights in its stage, in the layout that it came in."""
    files = FORMATS[checkpoint.format].network

    def write(stage: DiffusionStage, folder: Path) -> None:
        if files is None:
            card = ModelCard(licence=model.card.licence)
            save_model(replace(model.with_stage(stage), card=card), folder)
            return
        assert isinstance(stage.network, nn.Module)
        replace_network(
            checkpoint.folder, folder, stage.network, folder=files.folder, names=files.names
        )

    return write


def print_size(stage: DiffusionStage, window: int, config: Config) -> None:
    """The weights that are trained, and the sound in a step."""
    weights = list(DiffusionObjective(stage).parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    crops, seconds = config.accumulation * config.batch_size, float(window / stage.makes.rate)
    print(
        f"{trained / 1e6:.3g} million weights are trained. A step of each process has {crops} "
        f"crops of {seconds:.3g} seconds."
    )


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
