"""Writes audio files atomically: WAV, FLAC, OGG Vorbis, Opus and MP3.

Samples beyond full scale are clipped with a warning, except in float WAV. Reading is in
`audio_files`.
"""

import logging
import math
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import soundfile
import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import MAX_CHANNELS
from audio_tokenizers.resampling import StreamResampler, check_sample_rate

logger = logging.getLogger(__name__)

Encoding = Literal["pcm16", "pcm24", "float"]

# Format -> libsndfile's container, its encodings by name (the first is the default; None for a
# lossy codec), and the most channels.
FORMATS: dict[str, tuple[str, dict[Encoding | None, str], int]] = {
    "wav": ("WAV", {"pcm16": "PCM_16", "pcm24": "PCM_24", "float": "FLOAT"}, MAX_CHANNELS),
    "flac": ("FLAC", {"pcm16": "PCM_16", "pcm24": "PCM_24"}, 8),
    "ogg": ("OGG", {None: "VORBIS"}, MAX_CHANNELS),
    "opus": ("OGG", {None: "OPUS"}, MAX_CHANNELS),
    "mp3": ("MP3", {None: "MPEG_LAYER_III"}, 2),
}
# Sample rates of formats that support only some.
RATES = {
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
# Above these rates libsndfile crashes (Vorbis) or fails (FLAC).
MAX_RATES = {"ogg": 200_000, "flac": 655_350}
# libsndfile's Vorbis encoder crashes on much longer blocks. All blocks but the last have this
# length, since the length affects the encoded sound.
BLOCK_SAMPLES = 1 << 14
BYTES: dict[Encoding | None, int] = {"pcm16": 2, "pcm24": 3, "float": 4}
MAX_WAV_BYTES = 2**32 - 2**16
# libsndfile drops longer comments in WAV, and corrupts non-ASCII ones in MP3.
LONGEST_COMMENT = 2000


def write_audio(
    path: str | Path | BinaryIO,
    samples: Tensor,
    sample_rate: int,
    *,
    encoding: Encoding | None = None,
    format: str | None = None,  # noqa: A002
    comment: str | None = None,
) -> None:
    """Writes samples [C, N] or [N]; see `AudioWriter`."""
    if samples.dim() not in (1, 2):
        raise ValueError(f"Got samples of shape {list(samples.shape)}; expected [C, N] or [N].")
    channels = samples if samples.dim() == 2 else samples[None]
    with AudioWriter(
        path,
        sample_rate,
        num_channels=len(channels),
        encoding=encoding,
        format=format,
        comment=comment,
    ) as writer:
        writer.write(channels)


class AudioWriter:
    """Writes an audio file piece by piece, in constant memory; a context manager.

    The file appears when the block ends. If the block raises, no file is written, and an existing
    one is kept. Samples are rounded to the nearest step of `pcm16` or `pcm24`, halves to even.

    Args:
        path: a path whose suffix gives the format: .wav, .flac, .ogg (Vorbis), .opus or .mp3. Or a
            binary file open for reading and writing, such as `io.BytesIO`, with `format`.
        sample_rate: Opus and MP3 support only some rates; others are resampled to the next higher
            one with a log message.
        encoding: pcm16 (default), pcm24 or, in WAV, float; not for lossy formats.
        format: wav, flac, ogg, opus or mp3, if `path` is not a path.
        comment: stored in the file's metadata; ASCII, at most `LONGEST_COMMENT` characters.
    """

    def __init__(
        self,
        path: str | Path | BinaryIO,
        sample_rate: int,
        *,
        num_channels: int = 1,
        encoding: Encoding | None = None,
        format: str | None = None,  # noqa: A002
        comment: str | None = None,
    ) -> None:
        check_sample_rate(sample_rate)
        name = _format_of(path, format)
        self._container, encodings, max_channels = FORMATS[name]
        self._encoding = next(iter(encodings)) if encoding is None else encoding
        if self._encoding not in encodings:
            choices = ", ".join(str(choice) for choice in encodings if choice)
            raise ValueError(
                f"A .{name} file does not support encoding {encoding!r}; "
                + (f"choose one of: {choices}." if choices else "remove it.")
            )
        if not 1 <= num_channels <= max_channels:
            raise ValueError(
                f"A .{name} file supports 1 to {max_channels} channels, got {num_channels}."
            )
        if comment and not (comment.isascii() and len(comment) <= LONGEST_COMMENT):
            raise ValueError(
                f"The comment must be ASCII and at most {LONGEST_COMMENT:,} characters, got "
                f"{len(comment):,}: {comment[:40]!r}."
            )
        self._comment = comment
        self._subtype = encodings[self._encoding]
        self._path = path
        self._num_channels = num_channels
        self._rate = _allowed_rate(name, sample_rate)
        self._resampler = StreamResampler(sample_rate, self._rate, num_channels=num_channels)
        self._pending = torch.zeros(num_channels, 0)
        self._num_written = 0
        self._num_limited = 0
        self._peak = 1.0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            target: Any = self._path
            if isinstance(target, str | Path):
                target = stack.enter_context(replacing(target))
            else:
                target.seek(0)
            file = soundfile.SoundFile(
                target,
                "w",
                self._rate,
                self._num_channels,
                subtype=self._subtype,
                format=self._container,
            )
            self._file = stack.enter_context(file)
            if self._comment:
                self._file.comment = self._comment
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._write_resampled(self._resampler.finish())
            self._file.write(_encoded(self._pending, self._encoding))
            if self._num_written == 0:
                raise ValueError("No samples were written; an audio file needs at least one.")
        if self._num_limited:
            over = 20 * math.log10(self._peak)
            warnings.warn(
                f"Clipped {self._num_limited} samples that exceeded full scale by up to "
                f"{over:.2f} dB; lower the level to keep the peaks.",
                stacklevel=2,
            )

    def write(self, samples: Tensor) -> None:
        """Appends samples [C, n], floating point, nominally within -1..1."""
        if samples.dim() != 2 or len(samples) != self._num_channels:
            raise ValueError(
                f"Got samples of shape {list(samples.shape)}; expected [{self._num_channels}, N]."
            )
        if not samples.is_floating_point():
            raise ValueError(f"Got samples of {samples.dtype}; expected floats within -1..1.")
        for block in torch.split(samples.detach(), BLOCK_SAMPLES, dim=-1):
            block = block.to("cpu", torch.float32)
            if not bool(torch.isfinite(block).all()):
                raise ValueError("Got NaN or infinite samples; expected finite ones.")
            self._write_resampled(self._resampler.push(block))

    def _write_resampled(self, samples: Tensor) -> None:
        if self._encoding != "float":
            magnitude = samples.abs()
            self._num_limited += int((magnitude > 1).sum())
            self._peak = max(self._peak, float(magnitude.amax()) if magnitude.numel() else 0.0)
            samples = samples.clamp(-1, 1)
        self._num_written += samples.shape[-1]
        num_bytes = self._num_written * self._num_channels * BYTES.get(self._encoding, 0)
        if self._container == "WAV" and num_bytes > MAX_WAV_BYTES:
            raise ValueError("WAV files are limited to 4 GiB; use FLAC or several files.")
        self._pending = torch.cat([self._pending, samples], dim=-1)
        while self._pending.shape[-1] >= BLOCK_SAMPLES:
            block, self._pending = self._pending.tensor_split([BLOCK_SAMPLES], dim=-1)
            self._file.write(_encoded(block, self._encoding))


def _encoded(samples: Tensor, encoding: Encoding | None) -> "np.ndarray[Any, Any]":
    """Frames [n, C] for libsndfile; rounded here, since it truncates floats to integers."""
    frames = samples.numpy().T
    if encoding == "pcm16":
        return np.minimum(np.rint(frames * 2**15), 2**15 - 1).astype(np.int16)
    if encoding == "pcm24":
        steps = np.minimum(np.rint(frames.astype(np.float64) * 2**23), 2**23 - 1)
        return steps.astype(np.int32) << 8
    return np.ascontiguousarray(frames)


def _format_of(path: str | Path | BinaryIO, name: str | None) -> str:
    if isinstance(path, str | Path):
        if name is not None:
            raise ValueError(f"format={name!r} has no effect with a path; set the suffix instead.")
        name = Path(path).suffix[1:].lower()
        if name not in FORMATS:
            raise ValueError(
                f"{path} has no supported audio suffix; use one of: .{', .'.join(FORMATS)}."
            )
    elif name not in FORMATS:
        raise ValueError(f"Unknown format {name!r}. Choose one of: {', '.join(FORMATS)}.")
    return name


def _allowed_rate(name: str, sample_rate: int) -> int:
    if sample_rate > MAX_RATES.get(name, sample_rate):
        raise ValueError(
            f"A .{name} file supports at most {MAX_RATES[name]} Hz, got {sample_rate} Hz; use a "
            "lower rate or WAV."
        )
    rates = RATES.get(name)
    if rates is None or sample_rate in rates:
        return sample_rate
    rate = min((rate for rate in rates if rate > sample_rate), default=rates[-1])
    logger.warning("%s does not support %d Hz; resampling to %d Hz.", name, sample_rate, rate)
    return rate
