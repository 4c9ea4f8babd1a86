"""Trains a stage of a cascade of waveforms, as in Noise2Music, and writes a model with it.

    python recipes/train_cascade.py --preset tiny         # under a minute, synthetic sounds
    python recipes/train_cascade.py --stage generator --data shards --out runs/generator
    python recipes/train_cascade.py --stage cascader --data shards --out runs/cascader \\
        --after runs/generator/model
    python recipes/train_cascade.py --stage cascader --rate 24000 --data shards --out runs/music \\
        --after runs/cascader/model --no-text

`--data` takes shards with samples and captions from recipes/tokenize_dataset.py, such as --codec
none --samples 48000; their rate must be a multiple of `--rate`. The generator makes sound of a low
rate from a text. A cascader raises the rate of the sound before it; with `--after`, the model of
the stages before, `OUT/model` is the whole cascade so far. Without it, `OUT/model` only raises the
rate of sound (lm-audio upsample), and the generator is not needed.

Networks learn to predict v (arXiv 2202.00512) of waveforms. The sound that a cascader follows has
noise of a random level, which the cascader knows, so that it does not rely on details that the
stage before gets wrong (arXiv 2106.15282). Texts are dropped at random, for guidance. Run the same
command again to resume an interrupted run; the losses are the same as without the interruption.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from lm_audio.cli.recipe import run_recipe
from lm_audio.data.shards import Shards
from lm_audio.families.noise2music.stages import cascade, cascader, generator, waveform
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.model import Model
from lm_audio.networks import presets
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.networks.unet1d import UNet1dConfig
from lm_audio.saving.folder import load_model, save_model
from lm_audio.training.cascade_batches import CascadeBatches
from lm_audio.training.diffusion_loop import DiffusionLoop
from lm_audio.training.diffusion_objective import DiffusionObjective
from lm_audio.training.processes import Processes
from lm_audio.training.settings import TrainingSettings, check_least, read_data
from lm_audio.training.stage_batches import Dropout
from lm_audio.training.text import chosen_text

VOCABULARY = 4000
"""Maximum number of word pieces of a text encoder that is trained with the network."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingSettings):
    stage: Literal["generator", "cascader"] = "generator"
    preset: Literal["tiny", "small", "large"] = "small"  # type: ignore[assignment]
    out: Path = Path("runs/cascade")
    rate: int = 3_200
    """Samples per second of the stage."""
    from_rate: int | None = None
    """Samples per second of the sound that a cascader follows; defaults to the rate of --after, or
    to 3200."""
    after: Path | None = None
    """Folder of the model whose sound a cascader follows."""
    window_seconds: float = 30.0
    """Length of the training examples and of the stage's windows, in seconds."""
    batch_size: int = 8
    """Windows per batch."""
    most_noise: float = 0.5
    """Highest noise level of the sound that a cascader follows, from 0 (none) to 1 (only noise)."""
    text: bool = True
    """Follow the captions of the data."""
    t5: str | None = None
    """Folder or hub id of a T5 that encodes the captions. By default a small text encoder is
    trained with the network."""
    text_encoder: Path | None = None
    """Folder of an encoder from recipes/train_text_encoder.py for the captions; stays frozen."""
    text_dropout: float = 0.1
    """Share of examples that drop the text, for classifier-free guidance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, rate=1000, batch_size=1, text_dropout=0)
        if not 0 <= self.most_noise <= 1:
            raise ValueError(f"most_noise must be from 0 to 1, got {self.most_noise}.")
        if self.stage == "generator" and (self.after, self.from_rate) != (None, None):
            raise ValueError(
                "--after and --from-rate have no effect with --stage generator, which follows no "
                "sound; remove them."
            )
        if not self.text and (self.t5, self.text_encoder) != (None, None):
            raise ValueError("--t5 and --text-encoder have no effect with --no-text; remove them.")


def shape_of(widths: tuple[int, ...], *, num_attending: int) -> UNet1dConfig:
    return UNet1dConfig(in_channels=1, out_channels=1, widths=widths, num_attending=num_attending)


SHAPES = {  # of the network, and of the text encoder that is trained with it
    "tiny": (
        shape_of((32, 32, 64), num_attending=1),
        TransformerConfig(dim=32, num_layers=1, num_heads=2, hidden_dim=64, causal=False),
    ),
    "small": (
        shape_of((64, 64, 128, 128, *[256] * 4), num_attending=4),
        presets.compact(dim=256, num_layers=4, reads=True),
    ),
    "large": (
        shape_of((128, 128, 256, 256, *[512] * 6), num_attending=5),
        presets.compact(dim=512, num_layers=6, reads=True),
    ),
}
TINY = Config(
    preset="tiny",
    rate=2_000,
    window_seconds=0.25,
    steps=60,
    batch_size=4,
    learning_rate=3e-3,
    warmup_steps=5,
    average_decay=0.9,
    precision="float32",
    evaluate_every=30,
    evaluate_batches=2,
    save_every=20,
)
LARGE = Config(preset="large", steps=500_000, batch_size=32, warmup_steps=3000, recompute=True)
CASCADER = {"stage": "cascader", "rate": 16_000, "window_seconds": 4.0}
PRESETS: Mapping[str, Mapping[str, Config]] = {
    "generator": {"tiny": TINY, "small": Config(), "large": LARGE},
    "cascader": {
        "tiny": replace(TINY, stage="cascader", rate=8_000, from_rate=2_000, window_seconds=0.125),
        "small": Config(**CASCADER),  # type: ignore[arg-type]
        "large": replace(LARGE, **CASCADER),  # type: ignore[arg-type]
    },
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    processes = Processes(precision=config.precision, accumulation=config.accumulation)
    shards, held_out = read_data(config, sample_rate=config.rate)
    torch.manual_seed(config.seed)
    model = new_model(config, shards)
    stage = model.stages[-1]
    assert isinstance(stage, DiffusionStage)
    objective = DiffusionObjective(stage).train()
    if config.dry_run:
        print_size(objective)
        return []
    objective.model.recomputes = config.recompute  # type: ignore[assignment]
    batches = partial(CascadeBatches, stage, batch_size=config.batch_size, seed=config.seed)
    drops = Dropout(joint=0.0, each={"text": config.text_dropout} if config.text else {})
    losses = DiffusionLoop(
        objective=objective,
        config=config,
        processes=processes,
        batches=batches(shards, dropout=drops),
        held_out=batches(held_out, dropout=None),
        renderer=model.renderer,
        write=lambda stage, folder: save_model(model.with_stage(stage), folder),
    ).run()
    if processes.is_main:
        print(summary(config))
    return losses


def new_model(config: Config, shards: Shards) -> Model:
    """The model with new weights in its last stage."""
    shape, reader = SHAPES[config.preset]
    text = None
    if config.text:
        text = chosen_text(
            shards, reader, vocab_size=VOCABULARY, t5=config.t5, text_encoder=config.text_encoder
        )
    if config.stage == "generator":
        stage = generator(shape, rate=config.rate, window_seconds=config.window_seconds, text=text)
        return cascade([stage])
    before = [] if config.after is None else stages_of(config.after)
    follows = before[-1].makes if before else waveform(config.from_rate or 3_200)
    if config.from_rate not in (None, int(follows.rate)):
        raise ValueError(
            f"The model in {config.after} makes {int(follows.rate)} Hz, but --from-rate is "
            f"{config.from_rate}; remove it."
        )
    stage = cascader(
        shape,
        follows=follows,
        rate=config.rate,
        most_noise=config.most_noise,
        window_seconds=config.window_seconds,
        text=text,
    )
    return cascade([*before, stage])


def stages_of(folder: Path) -> list[DiffusionStage]:
    """The stages of a trained model."""
    stages = load_model(folder).stages
    trained = [stage for stage in stages if isinstance(stage, DiffusionStage)]
    if not trained or trained[-1].makes.width != 1:
        raise ValueError(f"The model in {folder} does not make mono waveforms.")
    return trained


def print_size(objective: DiffusionObjective) -> None:
    """The weights."""
    network = sum(weight.numel() for weight in objective.model.parameters())
    trained = sum(w.numel() for w in objective.parameters() if w.requires_grad)
    print(
        f"{trained / 1e6:.3g} million weights are trained, {network / 1e6:.3g} million in the "
        "network."
    )


def summary(config: Config) -> str:
    """The output path and the next command."""
    model = config.out / "model"
    generates = config.stage == "generator" or config.after is not None
    command = 'generate "rain"' if generates else "upsample in.wav"
    return (
        f"Wrote the model to {model}. Log: tensorboard --logdir {config.out}\n"
        f"Try: lm-audio {command} --model {model} -o out.wav"
    )


if __name__ == "__main__":
    run_recipe(main, PRESETS, options=("stage", "preset"), description=__doc__)
