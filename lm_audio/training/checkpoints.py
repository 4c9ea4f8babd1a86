"""Training checkpoints: keeps the last few and the best, written atomically.

A file contains unsharded weights, so a run can resume with another number of processes. It is read
as data, without running code.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from audio_tokenizers.atomic import replacing
from audio_tokenizers.weights import read_pickle

_NAME = re.compile(r"step-(\d+)(?:_(-?\d+\.\d+))?\.pt")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint file, and its held-out loss, if known."""

    path: Path
    step: int
    loss: float | None


class Checkpoints:
    """The checkpoints of one run: `step-00001000_2.3456.pt`, the step and the held-out loss.

    Args:
        keep_last: the number of latest checkpoints to keep, besides the best one.
    """

    def __init__(self, folder: str | Path, *, keep_last: int = 2) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}.")
        self.folder = Path(folder)
        self.keep_last = keep_last

    def found(self) -> list[Checkpoint]:
        """All checkpoints, by step."""
        matches = [(path, _NAME.fullmatch(path.name)) for path in self.folder.glob("step-*.pt")]
        every = [
            Checkpoint(
                path=path,
                step=int(match[1]),
                loss=None if match[2] is None else float(match[2]),
            )
            for path, match in matches
            if match is not None
        ]
        return sorted(every, key=lambda checkpoint: checkpoint.step)

    def latest(self) -> Checkpoint | None:
        return (self.found() or [None])[-1]  # type: ignore[list-item]

    def best(self) -> Checkpoint | None:
        judged = [each for each in self.found() if each.loss is not None]
        return min(judged, key=lambda each: (each.loss, -each.step), default=None)

    def is_best(self, loss: float) -> bool:
        """Whether no earlier loss was lower, to the precision of file names."""
        best = self.best()
        return math.isfinite(loss) and (
            best is None or best.loss is None or round(loss, 4) <= best.loss
        )

    def save(self, state: Mapping[str, Any], *, step: int, loss: float | None = None) -> Path:
        """Writes a state after `step` steps, then deletes obsolete checkpoints."""
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(
                f"The held-out loss is {loss} after {step} steps ({_last_good(self.latest())}). "
                "Restart with a lower learning rate."
            )
        suffix = "" if loss is None else f"_{loss:.4f}"
        path = self.folder / f"step-{step:08}{suffix}.pt"
        for left in self.folder.glob(".step-*.pt"):  # left by a run that was killed while writing
            left.unlink()
        try:
            with replacing(path) as temporary:
                torch.save(dict(state), temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise OSError(
                f"Could not write {path}; the disk may be full ({_last_good(self.latest())}). "
                "Free some space and restart to resume."
            ) from error
        best, every = self.best(), self.found()
        for each in every[: -self.keep_last]:
            if each != best:
                each.path.unlink(missing_ok=True)
        return path

    def read(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Reads the state; its tensors are memory-mapped."""
        try:
            return read_pickle(checkpoint.path)
        except ValueError as error:
            earlier = [each.path for each in self.found() if each.step < checkpoint.step]
            place = earlier[-1] if earlier else "the beginning"
            raise ValueError(
                f"{checkpoint.path} is damaged or not a checkpoint. Delete it to resume from "
                f"{place}."
            ) from error


def check_same_settings(saved: Mapping[str, Any], now: Mapping[str, Any], *, path: Path) -> None:
    """Raises ValueError if a run would resume with different settings."""
    if strange := saved.keys() ^ now.keys():
        raise ValueError(
            f"{path} is from another recipe or version, which differs in the setting "
            f"{min(strange)!r}. Start a new run in another folder."
        )
    for name in now:
        if saved[name] != now[name]:
            raise ValueError(
                f"{path} was made with {name}={saved[name]!r}, got {now[name]!r}. Resume with the "
                "same settings, or start a new run in another folder."
            )


def check_finite(loss: float, norm: float, *, step: int, checkpoints: Checkpoints) -> None:
    """Raises FloatingPointError, which names the last good checkpoint, if a run has diverged."""
    if math.isfinite(loss) and math.isfinite(norm):
        return
    raise FloatingPointError(
        f"The loss is {loss} and the gradient norm {norm} at step {step} "
        f"({_last_good(checkpoints.latest())}). Restart with a lower learning rate."
    )


def check_identity(found: str, expected: str, *, option: str) -> None:
    """Raises ValueError unless a tokenizer made the tokens of the data."""
    if found != expected:
        raise ValueError(
            f"The data's tokens were made by {expected}, but {option} is {found}. Use the former."
        )


def _last_good(latest: Checkpoint | None) -> str:
    return "no earlier checkpoint" if latest is None else f"last good checkpoint: {latest.path}"
