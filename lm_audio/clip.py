"""What comes out of a pipeline: sound, and the tokens that it was made of."""

import base64
import io
import math
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.spectra import mel_filterbank
from lm_audio.origin import origin_comment

# Programs that play a WAV file and then end, with the options to do so without a window or a word.
PLAYERS = {
    "afplay": (),
    "paplay": (),
    "aplay": ("-q",),
    "play": ("-q",),  # of SoX
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error"),
}

PICTURES = (".png", ".jpg", ".svg", ".pdf")

NUM_MELS = 128
FFT_LENGTH = 2048
MAX_COLUMNS = 2000
DYNAMIC_RANGE = 80.0  # dB
SILENCE = -40.0  # dB; what is softer all through is no peak


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Generated sound.

    Args:
        samples: [C, N], float32 on the CPU, nominally within -1..1.
        tokens: [K, T], int64, those that the renderer decoded: of a long continuation or inpainting
            only those of the part that the model saw. None where it renders something else.
        stage_values: what each stage made, by its name: tokens, or latents [D, T].
        model: the name of the one that made it, if it has one.
        settings: what else reproduces it; `save` stores them in the file.
    """

    samples: Tensor
    sample_rate: int
    tokens: Tensor | None
    stage_values: Mapping[str, Tensor]
    seed: int
    prompt: str | None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != torch.float32:
            raise ValueError(
                f"Got samples of shape {list(self.samples.shape)} and type {self.samples.dtype}; "
                "expected [C, N], torch.float32."
            )

    def __repr__(self) -> str:
        C = len(self.samples)
        channels = {1: "mono", 2: "stereo"}.get(C, f"{C} channels")
        return f"Clip({self.duration:.3f} s, {self.sample_rate} Hz, {channels}, seed {self.seed})"

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.sample_rate

    def save(self, path: str | Path) -> None:
        """Writes a .wav, .flac, .ogg, .opus or .mp3 file, whole or not at all.

        The file says in its metadata which prompt, seed and model made it. A clip with samples
        beyond full scale is turned down to it, with a warning.
        """
        write_audio(path, self._turned_down(), self.sample_rate, comment=self._origin())

    def encoded(self, format: str = "wav") -> bytes:  # noqa: A002 - the word for it
        """The bytes of such a file: wav, flac, ogg, opus or mp3."""
        file = io.BytesIO()
        samples, rate = self._turned_down(), self.sample_rate
        write_audio(file, samples, rate, format=format, comment=self._origin())
        return file.getvalue()

    def play(self) -> None:
        """Plays the clip to its end, by the first of `PLAYERS` that this machine has."""
        player = find_player()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.wav"
            self.save(path)
            command = [player, *PLAYERS[player], str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [x for x in done.stderr.splitlines() if x.strip() and not x.startswith("ALSA lib")]
        if done.returncode or (lines and player == "ffplay"):  # it exits with 0 without a device
            reason = lines[0].strip() if lines else f"exit status {done.returncode}"
            raise OSError(f"{player} could not play the clip: {reason}")

    def plot(self, path: str | Path) -> None:
        """Writes a picture of the waveform and log-mel spectrogram: .png, .jpg, .svg or .pdf.

        Needs matplotlib: pip install 'lm-audio[plot]'.
        """
        path = Path(path)
        figure = new_figure(path)
        wave, spectrogram = figure.subplots(2, sharex=True)
        N = self.samples.shape[1]
        seconds = torch.arange(N) / self.sample_rate
        wave.plot(seconds.numpy(), self.samples.T.numpy(), linewidth=0.5)
        wave.set(title=repr(self), ylabel="sample", ylim=(-1.05, 1.05))
        mels = log_mels(self.samples, self.sample_rate)
        extent = (0, self.duration, 0, len(mels))
        spectrogram.imshow(mels.numpy(), origin="lower", aspect="auto", extent=extent, cmap="magma")
        spectrogram.set(xlabel="seconds", ylabel="mel band", xlim=(0, self.duration))
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120)

    def _origin(self) -> str:
        made_by = {"model": self.model, "prompt": self.prompt, "seed": self.seed}
        return origin_comment(self.settings or made_by)

    def _turned_down(self) -> Tensor:
        peak = float(self.samples.abs().max()) if self.samples.numel() else 0.0
        if not peak > 1:
            return self.samples
        over = 20 * math.log10(peak)
        warnings.warn(
            f"The clip was turned down by {over:.2f} dB, for its peak was beyond full scale.",
            stacklevel=3,
        )
        return self.samples / peak

    def _repr_html_(self) -> str:
        """A player for notebooks, with the sound inside."""
        data = base64.b64encode(self.encoded("flac")).decode()
        return f'<audio controls title="{self!r}" src="data:audio/flac;base64,{data}"></audio>'


def find_player() -> str:
    """The first of `PLAYERS` that this machine has."""
    player = next((name for name in PLAYERS if shutil.which(name)), None)
    if player is None:
        raise FileNotFoundError(
            f"Found no program that plays sound. Install one of: {', '.join(PLAYERS)}."
        )
    return player


def new_figure(path: Path) -> Any:
    """An empty figure of matplotlib, if a picture can be written there."""
    if path.suffix.lower() not in PICTURES:
        raise ValueError(f"{path} has no suffix of a picture; use one of {', '.join(PICTURES)}.")
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "A plot needs matplotlib; install it with: pip install 'lm-audio[plot]'."
        ) from error
    return Figure(figsize=(10, 6), layout="constrained")


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
