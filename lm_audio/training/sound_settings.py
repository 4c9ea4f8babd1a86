"""The common settings of the recipes that train on sound, in segments."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from lm_audio.data.corpus import Corpus, load_corpora
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.training.processes import Precision, new_accelerator
from lm_audio.training.settings import check_least


@dataclass(frozen=True, kw_only=True)
class SoundSettings:
    """The settings that recipes for codecs, vocoders and models of sound share."""

    preset: str
    data: tuple[Path, ...] = ()
    """One or more folders of audio; the tiny preset defaults to synthetic sounds."""
    out: Path
    steps: int
    batch_size: int
    """Segments per step, over all processes."""
    max_norm: float = 1.0
    """Maximum gradient norm; larger gradients are clipped."""
    average_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    evaluate_every: int = 1000
    """Steps between evaluations, each of which saves a checkpoint."""
    keep_last: int = 2
    """Recent checkpoints to keep in addition to the best one."""
    precision: Precision = "bfloat16"
    seed: int = 0
    dry_run: bool = False
    """Print the estimated memory and time of a run and exit."""

    def __post_init__(self) -> None:
        check_least(self, batch_size=1, evaluate_every=1, keep_last=1)

    def lasting(self, corpus: Corpus) -> dict[str, Any]:
        """Settings that must not change when a run resumes."""
        free = {"data", "out", "start", "evaluate_every", "keep_last", "dry_run"}
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        return {**kept, "data": corpus.fingerprint}

    def new_accelerator(self) -> Accelerator:
        """That of this process; each gets an equal part of a batch."""
        accelerator = new_accelerator(self.precision)
        check_batch_size(self.batch_size, accelerator.num_processes)
        return accelerator


class Source(Protocol):
    """Settings that name a corpus."""

    @property
    def preset(self) -> str: ...
    @property
    def data(self) -> Sequence[Path]: ...


def read_corpus(settings: Source, sample_rate: int) -> Corpus:
    """The sounds to train on; synthetic ones by default for the preset tiny."""
    if settings.data:
        return load_corpora(settings.data, sample_rate=sample_rate)
    if settings.preset != "tiny":
        raise ValueError(
            f"No training data for the preset {settings.preset!r}; pass a folder of audio as "
            "--data."
        )
    clips = synthetic_clips(num_clips=18, seconds=2.0, sample_rate=sample_rate, seed=0)
    return Corpus(train=clips[3:], held_out=clips[:3])


def check_batch_size(batch_size: int, num_processes: int) -> None:
    """Raises ValueError unless a batch can be divided equally among the processes."""
    if batch_size % num_processes:
        raise ValueError(
            f"--batch-size {batch_size} must be a multiple of the number of processes, "
            f"{num_processes}."
        )


def remove_weight_norms(module: nn.Module) -> None:
    """For estimates: torch 2.9 cannot count operations of weight norm."""
    for layer in module.modules():
        if is_parametrized(layer):
            remove_parametrizations(layer, "weight")
