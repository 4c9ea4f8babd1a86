"""Logs a run to tensorboard: numbers, text, audio and spectrograms."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lm_audio.picture import DYNAMIC_RANGE, log_mels

_COLOURS = torch.tensor(
    [[0.0, 0.0, 0.05], [0.3, 0.05, 0.5], [0.85, 0.25, 0.35], [1.0, 0.65, 0.2], [1.0, 1.0, 0.8]]
)


class Tracker:
    """Writes a tensorboard log.

    Args:
        after: the step that a run resumes from; later entries of the interrupted run are purged.
        active: False in all processes except one.
    """

    def __init__(self, folder: Path, *, after: int = 0, active: bool = True) -> None:
        self._writer: Any = None
        if active:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ValueError(
                    "Logging needs tensorboard. Install it with: pip install 'lm-audio[train]'."
                ) from error
            self._writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def numbers(self, values: Mapping[str, float], *, step: int) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def held_out(self, values: Mapping[str, float], *, step: int) -> None:
        """Logs the results of an evaluation and prints them above the progress bar."""
        self.numbers({f"held out/{name}": value for name, value in values.items()}, step=step)
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        tqdm.write(f"step {step}: {shown}", file=sys.stderr)

    def sound(self, name: str, samples: Tensor, sample_rate: int, *, step: int) -> None:
        """Logs samples [C, N], mixed to mono, as audio and spectrogram."""
        if self._writer is None:
            return
        samples = samples.detach().float().cpu().clamp(-1, 1)
        self._writer.add_audio(name, samples.mean(dim=0), step, sample_rate)
        self._writer.add_image(name, spectrogram_picture(samples, sample_rate), step)

    def text(self, name: str, text: str, *, step: int) -> None:
        if self._writer is not None:
            self._writer.add_text(name, text, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def spectrogram_picture(samples: Tensor, sample_rate: int) -> Tensor:
    """The mel spectrogram of samples [C, N] as an image, low frequencies below: [3, H, W]."""
    level = 1 + log_mels(samples, sample_rate).flip(0) / DYNAMIC_RANGE  # [bands, columns], 0 to 1
    place = level * (len(_COLOURS) - 1)
    below = place.long().clamp(max=len(_COLOURS) - 2)
    share = (place - below)[..., None]
    colours = (1 - share) * _COLOURS[below] + share * _COLOURS[below + 1]
    return colours.permute(2, 0, 1)
