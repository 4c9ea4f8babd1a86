"""The settings that all recipes of language models share; each adds its own to them."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro

from lm_audio.training.optimization import Schedule
from lm_audio.training.processes import Precision


@dataclass(frozen=True, kw_only=True)
class LanguageModelSettings:
    preset: Literal["tiny", "small", "paper"] = "small"
    data: tuple[Path, ...] = ()
    """Shards that recipes/tokenize_dataset.py made, one folder or several; without any, the tiny
    preset makes sounds up."""
    out: Path
    """Takes the checkpoints, the log and the model; a run that was stopped here goes on."""
    steps: int = 100_000
    tokens_per_batch: int = 30_000
    """Padding counts too; a batch goes through the model at once."""
    accumulation: int = 1
    """Batches of each process in a step."""
    learning_rate: float = 5e-4
    warmup_steps: int = 1000
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    max_norm: float = 1.0
    """Gradients longer than this are shortened."""
    average_decay: float = 0.999
    """Of the averaged weights, which are those that are judged, heard and kept."""
    precision: Precision = "bfloat16"
    recompute: bool = False
    """Forget activations and compute them again: a third more time, much less memory."""
    evaluate_every: int = 1000
    """Held-out loss, samples, and a checkpoint, which is kept if it is the best."""
    evaluate_batches: int = 20
    save_every: int = 500
    keep_last: int = 2
    num_workers: int = 0
    """Processes that read ahead."""
    seed: int = 0
    dry_run: bool = False
    """Print what a run takes, memory and FLOPs, and stop."""

    def lasting(self, batches_per_step: int) -> dict[str, Any]:
        """What must stay the same when a run goes on."""
        free = {"data", "out", "evaluate_every", "evaluate_batches", "save_every", "keep_last",
                "num_workers", "dry_run", "accumulation", "recompute"}  # fmt: skip
        kept = {name: _plain(v) for name, v in asdict(self).items() if name not in free}
        return {**kept, "batches_per_step": batches_per_step}


Settings = TypeVar("Settings", bound=LanguageModelSettings)


def read_settings(presets: Mapping[str, Settings], *, description: str | None) -> Settings:
    """The command line over the settings of the preset that it names, or of "small"."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="small")
    name = parser.parse_known_args()[0].preset
    if name not in presets:
        parser.error(f"unknown preset {name!r}; choose one of: {', '.join(presets)}")
    default = presets[name]
    settings = tyro.cli(type(default), default=default, description=description)
    if not settings.data and settings.preset != "tiny" and not settings.dry_run:
        parser.error(
            f"the preset {name!r} needs data; give --data, a folder of shards that "
            "recipes/tokenize_dataset.py made"
        )
    return settings


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
