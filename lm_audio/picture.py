"""Plots of audio: the waveform above its log-mel spectrogram.

Shapes: C channels, N samples.
"""

import math
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.spectra import mel_filterbank

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".svg": "svg", ".pdf": "pdf"}
NUM_MELS = 128
FFT_LENGTH = 2048
MAX_COLUMNS = 2000
DYNAMIC_RANGE = 80.0  # dB
SILENCE = -40.0  # dB; audio below this level throughout is drawn as silence

INCHES = (8, 5)  # small, so that the text stays readable on a phone
DOTS_PER_INCH = 150
TITLE_LETTERS = 76  # per line, of two
TICKS = (100, 300, 1000, 3000, 10_000)  # Hz


def draw_sound(path: str | Path, samples: Tensor, sample_rate: int, *, title: str) -> None:
    """Writes a .png, .jpg, .svg or .pdf plot of samples [C, N] atomically."""
    path = Path(path)
    figure = new_figure(path)
    wave, spectrogram = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    _draw_wave(wave, samples, sample_rate, title=_written(title))
    _draw_spectrogram(figure, spectrogram, samples, sample_rate)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=FORMATS[path.suffix.lower()], dpi=DOTS_PER_INCH)


def new_figure(path: Path) -> Any:
    """An empty matplotlib figure; raises if the suffix is unknown or matplotlib is missing."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"Cannot plot to {path}. Use one of the suffixes {', '.join(FORMATS)}.")
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Plotting needs matplotlib. Install it with: pip install 'lm-audio[plot]'."
        ) from error
    return Figure(figsize=INCHES, layout="constrained")


def log_mels(samples: Tensor, sample_rate: int) -> Tensor:
    """The mel spectrogram of the mean of samples [C, N], in dB below its peak: [bands, columns]."""
    mono = samples.mean(dim=0)
    hop = max(FFT_LENGTH // 8, -(-len(mono) // MAX_COLUMNS))
    window = torch.hann_window(FFT_LENGTH)
    spectrum = torch.stft(
        mono, FFT_LENGTH, hop, window=window, pad_mode="constant", return_complex=True
    )
    bands = mel_filterbank(
        num_mels=NUM_MELS, num_bins=FFT_LENGTH // 2, sample_rate=sample_rate
    )  # [bands, bins]
    power = bands @ spectrum[:-1].abs().square()  # without Nyquist
    decibels = 10 * power.clamp(min=1e-20).log10()
    peak = decibels.max().clamp(min=SILENCE)
    return (decibels - peak).clamp(min=-DYNAMIC_RANGE)


def band_of(frequency: float, sample_rate: int) -> float:
    """The (fractional) row of `log_mels` whose band is centred at a frequency."""
    return _mel(frequency) / _mel(sample_rate / 2) * (NUM_MELS + 1) - 1


def _draw_wave(axes: Any, samples: Tensor, sample_rate: int, *, title: str) -> None:
    seconds = torch.arange(samples.shape[1]) / sample_rate
    for number, channel in enumerate(samples):
        axes.plot(seconds.numpy(), channel.numpy(), linewidth=0.5, color=f"C{number}", alpha=0.8)
    peak = max(1.0, float(samples.abs().max())) if samples.numel() else 1.0
    axes.set_title(title, parse_math=False)
    axes.set(ylabel="amplitude", ylim=(-1.05 * peak, 1.05 * peak))
    axes.grid(alpha=0.3)


def _draw_spectrogram(figure: Any, axes: Any, samples: Tensor, sample_rate: int) -> None:
    seconds = samples.shape[1] / sample_rate
    extent = (0, seconds, -0.5, NUM_MELS - 0.5)
    picture = axes.imshow(
        log_mels(samples, sample_rate).numpy(),
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="magma",
        vmin=-DYNAMIC_RANGE,
        vmax=0,
    )
    ticks = [tick for tick in TICKS if tick < 0.9 * sample_rate / 2]
    axes.set(xlabel="seconds", ylabel="frequency (Hz)", xlim=(0, seconds))
    axes.set_yticks([band_of(tick, sample_rate) for tick in ticks], [f"{t:,}" for t in ticks])
    figure.colorbar(picture, ax=axes, label="level (dB)", pad=0.01)


def _written(title: str) -> str:
    """At most two lines, in characters that matplotlib's font supports."""
    from matplotlib.font_manager import (  # type: ignore[import-not-found,unused-ignore]
        findfont,
        get_font,
    )

    known = get_font(findfont("DejaVu Sans")).get_charmap()
    words = "".join(c if ord(c) in known else "\N{REPLACEMENT CHARACTER}" for c in title)
    return textwrap.fill(words, TITLE_LETTERS, max_lines=2, placeholder=" ...")


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)
