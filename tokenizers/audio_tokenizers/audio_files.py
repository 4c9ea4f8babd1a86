"""Reads audio files: WAV, FLAC, OGG (Vorbis, Opus), MP3 and all others that libsndfile knows.

AAC, MP4, WebM and WMA are read through ffmpeg, if it is on the PATH, and PNG files as spectrogram
images. A segment is read without the
rest of the file, and a file of any length in constant memory. A truncated file is read up to its
last sample, with a warning. Other files raise ValueError. Writing is in `audio_writer`.
"""

import warnings
from bisect import bisect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import gcd, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from audio_tokenizers.containers import BinarySource, LongAudioError, converted, is_truncated
from audio_tokenizers.resampling import (
    StreamResampler,
    check_sample_rate,
    resample,
    resampled_length,
)

if TYPE_CHECKING:
    from torch import Tensor

# torch is imported where it runs: a header is read without it.

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}
MAX_CHANNELS = 64
BLOCK_SAMPLES = 1 << 16
# libsndfile reads wrong samples after a seek into the last page of an OGG file, at most this long.
OGG_LAST_PAGE_SECONDS = 60
# Beyond this many periods of the lower rate soxr's filter has no effect in float32.
FILTER_PERIODS = 512

# What libsndfile says where a FLAC does not tell its length.
UNKNOWN_LENGTH = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Audio:
    """A waveform: samples [C, N], float32, nominally within -1..1."""

    samples: "Tensor"
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The properties of an audio file; `format` is wav, flac, ogg, opus, mp3 or another.

    Args:
        num_samples: per channel; an estimate for an MP3 without a Xing or Info header.
        comment: from the metadata.
        is_truncated: whether samples that the header states are missing.
    """

    sample_rate: int
    num_channels: int
    num_samples: int
    format: str
    comment: str = ""
    is_truncated: bool = False

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def channel_layout(num_channels: int) -> str:
    """ "mono", "stereo", or such as "6 channels"."""
    return {1: "mono", 2: "stereo"}.get(num_channels, f"{num_channels} channels")


def audio_info(path: str | Path | BinarySource, *, max_duration: float | None = None) -> AudioInfo:
    """Reads the properties of an audio file, without torch.

    Args:
        max_duration: seconds; longer files raise ValueError, and decoding stops there.
    """
    with _opened(path, max_duration) as (_, info):
        return info


def find_audio(folder: Path) -> list[Path]:
    """The files below a folder with a suffix of `SUFFIXES`, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_audio(
    path: str | Path | BinarySource,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    num_channels: int | None = None,
    max_duration: float | None = None,
) -> Audio:
    """Reads an audio file, or a segment of one.

    A segment holds round(duration * sample_rate) samples, fewer only where the file ends before,
    and equals the same slice of the whole file read at that `sample_rate`.

    Args:
        path: a path, or a seekable binary file such as `io.BytesIO`.
        start: seconds.
        duration: seconds; to the end by default.
        sample_rate: resamples to this rate; by default the rate of the file.
        num_channels: 1 mixes all channels down to their mean; a single channel is repeated.
        max_duration: seconds; longer files raise ValueError, and decoding stops there.
    """
    import torch

    _check_segment(start, duration)
    with _opened(path, max_duration) as (file, info):
        _warn(info, _name(path))
        target_rate = file.samplerate if sample_rate is None else sample_rate
        check_sample_rate(target_rate)
        first = round(start * target_rate)
        last = None if duration is None else first + max(1, round(duration * target_rate))
        begin, end = _source_range(first, last, file.samplerate, target_rate)
        if first >= resampled_length(info.num_samples, file.samplerate, target_rate):
            raise ValueError(
                f"{_name(path)} is {info.duration:.3f} s long, but the segment starts at {start} s."
            )
        blocks = list(_blocks(file, info, _name(path), begin=begin, end=end))
        whole = torch.from_numpy(np.ascontiguousarray(np.concatenate(blocks).T))
        samples = _to_channels(whole, num_channels, _name(path))
        resampled = resample(samples, file.samplerate, target_rate)
        offset = first - begin * target_rate // file.samplerate
        stop = None if last is None else offset + last - first
        return Audio(samples=resampled[:, offset:stop].clone(), sample_rate=target_rate)


def stream_audio(
    path: str | Path | BinarySource,
    *,
    sample_rate: int | None = None,
    num_channels: int | None = None,
    block_seconds: float = 10.0,
) -> "Iterator[Tensor]":
    """Yields the samples of `read_audio` in pieces [C, n], in constant memory.

    Bad input raises ValueError at the first step of the iteration. Pieces last about
    `block_seconds`.
    """
    import torch

    if not (isfinite(block_seconds) and block_seconds > 0):
        raise ValueError(f"block_seconds is {block_seconds}; use a positive number of seconds.")
    with _opened(path) as (file, info):
        _warn(info, _name(path))
        target_rate = file.samplerate if sample_rate is None else sample_rate
        name = _name(path)
        resampler: StreamResampler | None = None
        size = max(1, round(block_seconds * file.samplerate))
        for block in _blocks(file, info, name, block_samples=size):
            whole = torch.from_numpy(np.ascontiguousarray(block.T))
            samples = _to_channels(whole, num_channels, name)
            if resampler is None:
                resampler = StreamResampler(file.samplerate, target_rate, num_channels=len(samples))
            resampled = resampler.push(samples)
            if resampled.shape[-1]:
                yield resampled
        assert resampler is not None  # _opened refuses a file without samples
        rest = resampler.finish()
        if rest.shape[-1]:
            yield rest


class _LinearFile(soundfile.SoundFile):  # type: ignore[misc]  # it is untyped
    """A sound file whose reads go straight on.

    soundfile seeks to the position that it is at after every read of a seekable file, and
    libsndfile then decodes the last page of an OGG file wrongly. `seek` itself still works.
    """

    def seekable(self) -> bool:
        return False


class _Source:
    """A file for libsndfile, which seeks wherever a damaged header points."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._raw.seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return self._raw.tell()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@contextmanager
def _opened(
    path: str | Path | BinarySource, max_duration: float | None = None
) -> Iterator[tuple[Any, AudioInfo]]:
    """Opens an audio file that has samples; raises ValueError for all others."""
    name = _name(path)
    if isinstance(path, str | Path):
        if not Path(path).exists():
            raise ValueError(f"No such file: {name}")
        if not Path(path).is_file():
            raise ValueError(f"{name} is a folder; expected an audio file.")
    with ExitStack() as stack:
        raw: Any = path
        if isinstance(path, str | Path):
            raw = stack.enter_context(Path(path).open("rb"))
        if raw.seek(0, 2) == 0:
            raise ValueError(f"{name} is empty.")
        container: str | None = "png"
        if (sound := _image_sound(raw, name, max_duration)) is not None:
            raw = sound
        else:
            raw, container = stack.enter_context(converted(raw, name, max_seconds=max_duration))
        truncated = is_truncated(raw)
        try:
            file = stack.enter_context(_LinearFile(_Source(raw)))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw
            if truncated:
                raise ValueError(f"{name} is truncated: no samples are left.") from error
            raise ValueError(
                f"{name} is not an audio file, or its format is not supported."
            ) from error
        num_samples = file.frames
        if file.format == "FLAC" and not _decodes(file, num_samples - 1):
            truncated = True  # libsndfile states the number in the header, and fails for good
            raw.seek(0)
            num_samples = bisect(range(num_samples), False, key=lambda n: not _reaches(raw, n))
            raw.seek(0)
            file = stack.enter_context(_LinearFile(_Source(raw)))
        info = _info(file, name, container, num_samples, truncated)
        if max_duration is not None and info.duration > max_duration:
            raise LongAudioError(f"{name} is longer than the maximum of {max_duration:g} s.")
        yield file, info


def _image_sound(raw: Any, name: str, max_seconds: float | None) -> Any:
    """The sound of a spectrogram image as a WAV file; None for other files."""
    head = raw.read(8) if raw.seek(0) == 0 else b""
    raw.seek(0)
    if head[1:4] != b"PNG":
        return None
    from audio_tokenizers.image_files import image_as_wav  # needs torch

    return image_as_wav(raw, name, max_seconds=max_seconds)


def _info(
    file: Any, name: str, container: str | None, num_samples: int, truncated: bool
) -> AudioInfo:
    """The properties of an open file; raises ValueError if it is empty or beyond the limits."""
    if file.frames == 0:
        raise ValueError(f"{name} has no samples, or its header does not state their number.")
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise ValueError(f"{name} has {file.channels} channels; the maximum is {MAX_CHANNELS}.")
    try:
        check_sample_rate(file.samplerate)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    info = AudioInfo(
        sample_rate=file.samplerate,
        num_channels=file.channels,
        num_samples=num_samples,
        format=container or ("opus" if file.subtype == "OPUS" else file.format.lower()),
        comment=file.comment.rstrip("\0"),
        is_truncated=truncated,
    )
    # Of FLAC from a pipe nothing states the length, and of a cut MP3 only that of the whole.
    if num_samples >= UNKNOWN_LENGTH or (truncated and file.format == "MP3"):
        num_samples = sum(len(block) for block in _blocks(file, info, name))
        file.seek(0)
        info = replace(info, num_samples=num_samples)
    if num_samples == 0:
        raise ValueError(f"{name} is truncated: no samples are left.")
    return info


def _decodes(file: Any, position: int) -> bool:
    """Whether a FLAC file can be decoded up to a position; returns to the start if it can."""
    if position >= UNKNOWN_LENGTH:
        return True
    try:
        file.seek(position)
        is_there = len(file.read(1)) == 1
        file.seek(0)
    except soundfile.LibsndfileError:
        return False
    return is_there


def _reaches(raw: BinarySource, position: int) -> bool:
    """As `_decodes`, with a new decoder: an error leaves the old one unusable."""
    raw.seek(0)
    with _LinearFile(raw) as file:
        return _decodes(file, position)


def _warn(info: AudioInfo, name: str) -> None:
    if info.is_truncated:
        warnings.warn(
            f"{name} is truncated; using the {info.duration:.2f} s that are left.", stacklevel=3
        )


def _blocks(
    file: Any,
    info: AudioInfo,
    name: str,
    *,
    begin: int = 0,
    end: int | None = None,
    block_samples: int = BLOCK_SAMPLES,
) -> Iterator["np.ndarray[Any, Any]"]:
    """Decodes the samples from `begin` to `end`, or to the end of the file: pieces [n, C]."""
    # libsndfile may only guess the length of an MP3: it is read to its end.
    is_estimate = info.format == "mp3" or info.num_samples >= UNKNOWN_LENGTH
    if not is_estimate:
        end = info.num_samples if end is None else min(end, info.num_samples)
    last_page = info.num_samples - OGG_LAST_PAGE_SECONDS * file.samplerate
    must_decode_from_start = file.format == "OGG" and (end or info.num_samples) > last_page
    position = 0
    try:
        if not must_decode_from_start and begin > 0:
            position = file.seek(begin)
        while end is None or position < end:
            stop = begin if position < begin else position + block_samples
            if end is not None:
                stop = min(stop, end)
            frames = file.read(
                min(stop - position, block_samples), dtype="float32", always_2d=True
            )  # [n, C]
            if not len(frames):
                break
            position += len(frames)
            if position > begin:
                if not np.isfinite(frames).all():
                    raise ValueError(f"{name} contains NaN or infinite samples.")
                yield frames
    except soundfile.LibsndfileError as error:
        raise ValueError(f"{name} is damaged: decoding failed after {position} samples.") from error
    if position <= begin or (end is not None and not is_estimate and position < end):
        raise ValueError(
            f"{name} is damaged: it ends after {position} of {info.num_samples} samples."
        )


def _check_segment(start: float, duration: float | None) -> None:
    if not (isfinite(start) and start >= 0):
        raise ValueError(f"A segment must start at 0 s or later; got {start}.")
    if duration is not None and not (isfinite(duration) and duration > 0):
        raise ValueError(f"A segment must be longer than 0 s; got {duration}.")


def _source_range(
    first: int, last: int | None, from_rate: int, to_rate: int
) -> tuple[int, int | None]:
    """The source samples that determine the resampled samples from `first` to `last`.

    They begin where a source and a resampled sample coincide, so that the grid of the segment is
    that of the whole file.
    """
    if from_rate == to_rate:
        return first, last
    step = from_rate // gcd(from_rate, to_rate)
    margin = FILTER_PERIODS * max(1, -(-from_rate // to_rate))
    begin = max(0, (first * from_rate // to_rate - margin) // step * step)
    return begin, None if last is None else -(-last * from_rate // to_rate) + margin


def _to_channels(samples: "Tensor", num_channels: int | None, name: str) -> "Tensor":
    """Mixes or repeats the channels of [C, N]."""
    C, N = samples.shape
    if num_channels is None or num_channels == C:
        return samples
    if num_channels == 1:
        return samples.mean(dim=0, keepdim=True)
    if C == 1 and 1 < num_channels <= MAX_CHANNELS:
        return samples.expand(num_channels, N)
    choices = f"1 to {MAX_CHANNELS}" if C == 1 else f"1 or {C}"
    raise ValueError(
        f"{name} has {C} channels and cannot be read with {num_channels}; choose {choices}."
    )


def _name(path: str | Path | BinarySource) -> str:
    return str(path) if isinstance(path, str | Path) else "The audio"
