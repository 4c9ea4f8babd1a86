"""Files of generated clips; existing valid files are not written again."""

from pathlib import Path

import numpy as np
import torch

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from corpora.signals import num_samples


def write_clip(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes samples [N], float32 within -1..1; the suffix of the path says the format."""
    write_audio(path, torch.from_numpy(samples), sample_rate)


def is_whole(path: Path, *, seconds: float, sample_rate: int) -> bool:
    """Whether an audio file has this length and rate, to the sample."""
    try:
        info = audio_info(path)
    except (FileNotFoundError, ValueError):  # missing or damaged
        return False
    return (info.sample_rate, info.num_samples) == (sample_rate, num_samples(seconds, sample_rate))
