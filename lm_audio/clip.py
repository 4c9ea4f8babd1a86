"""The result of a pipeline: audio, and the tokens that it was decoded from."""

import base64
import html
import io
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import channel_layout
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.image_files import encode_image
from audio_tokenizers.png import SUFFIX
from lm_audio.origin import origin_comment
from lm_audio.picture import draw_sound

# Programs that play a WAV file and exit, with the options that suppress windows and output.
PLAYERS = {
    "afplay": (),
    "paplay": (),
    "aplay": ("-q",),
    "play": ("-q",),  # of SoX
    "ffplay": ("-nodisp", "-autoexit", "-loglevel", "error"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Generated audio.

    Args:
        samples: [C, N], float32 on the CPU, nominally within -1..1.
        tokens: [K, T], int64, those that the renderer decoded: of a long continuation or inpainting
            only those of the part that the model saw. None where it renders something else.
        stage_values: what each stage made, by its name: tokens, or latents [D, T].
        model: the name of the one that made it, if it has one.
        settings: what else reproduces it; `save` stores them in the file.
        takes: with best_of, all clips that were made for the prompt, best first.
    """

    samples: Tensor
    sample_rate: int
    tokens: Tensor | None
    stage_values: Mapping[str, Tensor]
    seed: int
    prompt: str | None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    takes: Sequence["Clip"] = ()

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != torch.float32:
            raise ValueError(
                "Expected samples of shape [C, N] and type torch.float32, got "
                f"{list(self.samples.shape)} and {self.samples.dtype}."
            )

    def __repr__(self) -> str:
        channels = channel_layout(len(self.samples))
        return f"Clip({self.duration:.3f} s, {self.sample_rate} Hz, {channels}, seed {self.seed})"

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.sample_rate

    def save(self, path: str | Path) -> None:
        """Writes a .wav, .flac, .ogg, .opus or .mp3 file, or a .png spectrogram image, atomically.

        The metadata contains all settings; see `lm-audio info`. Samples beyond full scale, which
        only raw clips have, are clipped with a warning. Images are those of Riffusion: they have
        magnitudes alone, up to 10 kHz, from which reading them recovers a similar sound.
        """
        if Path(path).suffix.lower() == SUFFIX:
            image = self.encoded("png")
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(image)
            return
        write_audio(path, self.samples, self.sample_rate, comment=self._origin())

    def encoded(self, format: str = "wav") -> bytes:  # noqa: A002 - the word for it
        """The bytes of an audio file, wav, flac, ogg, opus or mp3, or of a png image."""
        samples, rate = self.samples, self.sample_rate
        if format == "png":
            return encode_image(samples, rate, comment=self._origin())
        file = io.BytesIO()
        write_audio(file, samples, rate, format=format, comment=self._origin())
        return file.getvalue()

    def play(self) -> None:
        """Plays the clip to its end with the first of `PLAYERS` that is installed."""
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
        """Writes a .png, .jpg, .svg or .pdf plot of the waveform and its log-mel spectrogram.

        Needs matplotlib: pip install 'lm-audio[plot]'.
        """
        draw_sound(path, self.samples, self.sample_rate, title=self._title)

    @property
    def _title(self) -> str:
        """The prompt and the seed."""
        words = "Clip" if self.prompt is None else " ".join(self.prompt.split()) or "Clip"
        return f"{words} (seed {self.seed})"

    def _origin(self) -> str:
        made_by = {"model": self.model, "prompt": self.prompt, "seed": self.seed}
        return origin_comment(self.settings or made_by)

    def _repr_html_(self) -> str:
        """A player for notebooks: title, audio, then duration, sample rate, channels and model."""
        data = base64.b64encode(self.encoded("flac")).decode()
        title = html.escape(self._title)
        facts = [
            f"{self.duration:.2f} s",
            f"{self.sample_rate} Hz",
            channel_layout(len(self.samples)),
        ]
        facts += [f"model {self.model}"] if self.model else []
        return (
            f"<figure><figcaption><strong>{title}</strong></figcaption>"
            f'<audio controls preload="auto" title="{title}" src="data:audio/flac;base64,{data}">'
            f"</audio><div><small>{html.escape(', '.join(facts))}</small></div></figure>"
        )


def find_player() -> str:
    """The first of `PLAYERS` that is installed."""
    player = next((name for name in PLAYERS if shutil.which(name)), None)
    if player is None:
        raise FileNotFoundError(
            f"Found no program that plays sound. Install one of: {', '.join(PLAYERS)}."
        )
    return player
