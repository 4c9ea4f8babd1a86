"""The common settings of the recipes that train stages."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from audio_tokenizers.protocol import AcousticTokenizer
from lm_audio.data.shards import Shards
from lm_audio.data.synthetic_shards import make_up_shards
from lm_audio.training.optimization import (
    OptimizerName,
    Schedule,
    language_model_optimizer,
    learning_rate_share,
    set_learning_rate,
)
from lm_audio.training.processes import Precision


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings that recipes for stages of all kinds share."""

    preset: Literal["tiny", "default", "small", "paper"] = "small"
    data: tuple[Path, ...] = ()
    """One or more folders of shards that recipes/tokenize_dataset.py wrote. The preset tiny uses
    synthetic sounds by default."""
    out: Path
    """The folder for checkpoints, log and results. A run that was stopped there continues."""
    steps: int = 50_000
    accumulation: int = 1
    """Batches per step and process, whose gradients are accumulated."""
    optimizer: OptimizerName = "adamw"
    """muon needs several times fewer steps from scratch, each a quarter longer on a CPU."""
    learning_rate: float = 5e-4
    warmup_steps: int = 1000
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    max_norm: float = 1.0
    """The norm to which gradients are clipped."""
    average_decay: float = 0.999
    """The decay of the moving average of the weights, which is what is evaluated and saved."""
    precision: Precision = "bfloat16"
    recompute: bool = False
    """Recompute activations in the backward pass: a third more time, much less memory."""
    evaluate_every: int = 1000
    """Steps between evaluations: held-out loss, samples, and a checkpoint."""
    evaluate_batches: int = 20
    save_every: int = 500
    keep_last: int = 2
    num_workers: int = 0
    """Worker processes that load batches; 0 loads them in the main process."""
    seed: int = 0
    dry_run: bool = False
    """Print the memory and the operations of the run, and exit."""

    def __post_init__(self) -> None:
        check_least(
            self,
            steps=1,
            accumulation=1,
            warmup_steps=0,
            evaluate_every=1,
            evaluate_batches=1,
            save_every=1,
            keep_last=1,
            num_workers=0,
        )

    def new_optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        return language_model_optimizer(
            self.optimizer,
            module,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

    def schedule_learning_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Sets the learning rate of a step and returns its share of the highest one."""
        share = learning_rate_share(
            step, steps=self.steps, warmup_steps=self.warmup_steps, schedule=self.schedule
        )
        set_learning_rate(optimizer, self.learning_rate * share)
        return share

    def lasting(self, batches_per_step: int, *, data: Shards) -> dict[str, Any]:
        """The settings that must not change when a run continues; paths may."""
        free = {"data", "evaluate_every", "evaluate_batches", "save_every", "keep_last",
                "num_workers", "dry_run", "accumulation", "recompute"}  # fmt: skip
        kept = {
            name: value
            for name, value in asdict(self).items()
            if name not in free and not isinstance(value, Path)
        }
        return {**kept, "batches_per_step": batches_per_step, "data": data.fingerprint}


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings(TrainingSettings):
    """The settings of recipes for language models."""

    tokens_per_batch: int = 16_000
    """The most tokens in a batch, padding included."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, tokens_per_batch=1)


def check_least(settings: object, **least: int) -> None:
    """Raises ValueError if one of these settings is below its minimum."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if not value >= lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}.")


def read_data(
    settings: TrainingSettings,
    codec: AcousticTokenizer | None = None,
    *,
    sample_rate: int | None = None,
) -> tuple[Shards, Shards]:
    """The training and the held-out data; synthetic for the preset tiny and for dry runs.

    Args:
        codec: encodes the synthetic sounds.
        sample_rate: of the synthetic sounds, if they are samples instead of tokens.
    """
    make_up = partial(make_up_shards, codec=codec, sample_rate=sample_rate)
    folders: Sequence[Path] = settings.data
    if not folders:
        if settings.preset != "tiny" and not settings.dry_run:
            raise ValueError(
                f"The preset {settings.preset!r} needs data. Pass --data with a folder of shards "
                "from recipes/tokenize_dataset.py."
            )
        if settings.dry_run:
            with tempfile.TemporaryDirectory() as folder:  # their tokens are not used
                made_up = make_up(Path(folder))
                return Shards(made_up), Shards(made_up, "held_out")
        folders = [make_up(settings.out / "data")]
    return Shards(folders), Shards(folders, "held_out")
