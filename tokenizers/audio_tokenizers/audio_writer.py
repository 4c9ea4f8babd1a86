"""Writes audio files: WAV, FLAC, OGG Vorbis, Opus and MP3, whole or not at all.

Samples beyond full scale are limited to it with a warning, except in float WAV. Reading is in
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
# The rates of the formats that do not take any.
RATES = {
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
}
# libsndfile crashes on a higher rate in Vorbis, and refuses it in FLAC.
MAX_RATES = {"ogg": 200_000, "flac": 655_350}
# libsndfile's Vorbis encoder crashes on much longer blocks. All blocks but the last have this
# length, since the sound of the first ones depends on it.
BLOCK_SAMPLES = 1 << 14
BYTES: dict[Encoding | None, int] = {"pcm16": 2, "pcm24": 3, "float": 4}
MAX_WAV_BYTES = 2**32 - 2**16
LONGEST_COMMENT = (
    2000  # libsndfile drops what is longer in WAV, and spoils in MP3 what is not ASCII
)


def write_audio(
    path: str | Path | BinaryIO,
    samples: Tensor,
    sample_rate: int,
    *,
    encoding: Encoding | None = None,
    format: str | None = None,  # noqa: A002 - the word for it
    comment: str | None = None,
) -> None:
    """Writes samples [C, N] or [N]; see `AudioWriter`."""
    if samples.dim() not in (1, 2):
        raise ValueError(f"The samples have shape {tuple(samples.shape)}; give [C, N] or [N].")
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

    The file appears when the block ends; an exception inside the block leaves none, and an older
    file as it was. Samples are rounded to the nearest step of `pcm16` or `pcm24`, halves to even.

    Args:
        path: the suffix says the format: .wav, .flac, .ogg (Vorbis), .opus or .mp3. Or a binary
            file open for reading and writing, such as `io.BytesIO`, with `format`.
        sample_rate: Opus and MP3 allow a few rates only; other rates are resampled to the next
            higher one, which is logged.
        encoding: pcm16 (default), pcm24 or, in WAV, float; not for the lossy formats.
        format: wav, flac, ogg, opus or mp3, where `path` is not a path.
        comment: goes into the metadata of the file; ASCII, at most `LONGEST_COMMENT` characters.
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
                f"Encoding {encoding!r} does not exist in a .{name} file; "
                + (f"choose one of: {choices}." if choices else "leave it out.")
            )
        if not 1 <= num_channels <= max_channels:
            raise ValueError(
                f"{num_channels} channels do not fit a .{name} file; it holds 1 to {max_channels}."
            )
        if comment and not (comment.isascii() and len(comment) <= LONGEST_COMMENT):
            raise ValueError(
                f"The comment has {len(comment):,} characters, {comment[:40]!r}; give at most "
                f"{LONGEST_COMMENT:,} of ASCII, which all formats keep."
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
                raise ValueError("There are no samples to write; write at least one.")
        if self._num_limited:
            over = 20 * math.log10(self._peak)
            warnings.warn(
                f"{self._num_limited} samples were beyond full scale, by up to {over:.2f} dB, and "
                "were limited to it; lower the level to keep the peaks.",
                stacklevel=2,
            )

    def write(self, samples: Tensor) -> None:
        """Appends samples [C, n], floating point, nominally within -1..1."""
        if samples.dim() != 2 or len(samples) != self._num_channels:
            raise ValueError(
                f"The samples have shape {tuple(samples.shape)}; give [{self._num_channels}, N]."
            )
        if not samples.is_floating_point():
            raise ValueError(f"The samples are {samples.dtype}; give floats within -1..1.")
        for block in torch.split(samples.detach(), BLOCK_SAMPLES, dim=-1):
            block = block.to("cpu", torch.float32)
            if not bool(torch.isfinite(block).all()):
                raise ValueError("The samples hold NaN or infinite values; give finite ones.")
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
            raise ValueError("A WAV file ends at 4 GiB; write FLAC, or several files.")
        self._pending = torch.cat([self._pending, samples], dim=-1)
        while self._pending.shape[-1] >= BLOCK_SAMPLES:
            block, self._pending = self._pending.tensor_split([BLOCK_SAMPLES], dim=-1)
            self._file.write(_encoded(block, self._encoding))


def _encoded(samples: Tensor, encoding: Encoding | None) -> "np.ndarray[Any, Any]":
    """The frames [n, C] as libsndfile takes them: it cuts floats to integers, so round first."""
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
            raise ValueError(f"format={name!r} has no effect on a path; name it by the suffix.")
        name = Path(path).suffix[1:].lower()
        if name not in FORMATS:
            raise ValueError(
                f"{path} does not end in a known suffix; use one of: .{', .'.join(FORMATS)}."
            )
    elif name not in FORMATS:
        raise ValueError(f"Unknown format {name!r}. Choose one of: {', '.join(FORMATS)}.")
    return name


def _allowed_rate(name: str, sample_rate: int) -> int:
    if sample_rate > MAX_RATES.get(name, sample_rate):
        raise ValueError(
            f"A .{name} file holds at most {MAX_RATES[name]} Hz, not {sample_rate} Hz; "
            "choose a lower rate or WAV."
        )
    rates = RATES.get(name)
    if rates is None or sample_rate in rates:
        return sample_rate
    rate = min((rate for rate in rates if rate > sample_rate), default=rates[-1])
    logger.warning("%s cannot hold %d Hz: resampling to %d Hz.", name, sample_rate, rate)
    return rate
