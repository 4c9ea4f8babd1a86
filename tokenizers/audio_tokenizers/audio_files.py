"""Reads audio files: WAV, FLAC, OGG (Vorbis, Opus), MP3 and what else libsndfile knows.

A segment is read without the rest of the file, and a file of any length in constant memory. What
cannot be read raises ValueError. Writing is in `audio_writer`.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import gcd, isfinite
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from audio_tokenizers.resampling import (
    StreamResampler,
    check_sample_rate,
    resample,
    resampled_length,
)
from audio_tokenizers.truncation import BinarySource, check_complete

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

    samples: Tensor
    sample_rate: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[-1] / self.sample_rate


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What the header of an audio file says; `format` is wav, flac, ogg, opus, mp3 or another.

    `num_samples` is per channel. It is an estimate for an MP3 without a Xing or Info header.
    `comment` is what whoever made it wrote into its metadata.
    """

    sample_rate: int
    num_channels: int
    num_samples: int
    format: str
    comment: str = ""

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.num_samples / self.sample_rate


def audio_info(path: str | Path | BinarySource) -> AudioInfo:
    """Reads the header of an audio file, and checks that the file is whole."""
    with _opened(path) as file:
        return _info(file)


def find_audio(folder: Path) -> list[Path]:
    """The files below a folder whose names are those of audio, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_audio(
    path: str | Path | BinarySource,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int | None = None,
    num_channels: int | None = None,
) -> Audio:
    """Reads an audio file, or a segment of one.

    A segment holds round(duration * sample_rate) samples, fewer only where the file ends before,
    and equals the same slice of the whole file read at that `sample_rate`.

    Args:
        path: a path, or a seekable binary file such as `io.BytesIO`.
        start: seconds.
        duration: seconds; to the end by default.
        sample_rate: resamples to this rate; that of the file by default.
        num_channels: 1 mixes all channels down to their mean, and one channel is repeated.
    """
    _check_segment(start, duration)
    with _opened(path) as file:
        target_rate = file.samplerate if sample_rate is None else sample_rate
        check_sample_rate(target_rate)
        first = round(start * target_rate)
        last = None if duration is None else first + max(1, round(duration * target_rate))
        begin, end = _source_range(first, last, file.samplerate, target_rate)
        info = _info(file)
        if first >= resampled_length(info.num_samples, file.samplerate, target_rate):
            raise ValueError(
                f"{_name(path)} lasts {info.duration:.3f} s and the segment starts at {start} s; "
                "start before the end."
            )
        blocks = list(_blocks(file, _name(path), begin=begin, end=end))
        samples = _to_channels(torch.cat(blocks, dim=-1), num_channels, _name(path))
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
) -> Iterator[Tensor]:
    """Yields the samples of `read_audio` in pieces [C, n], in constant memory.

    Bad input raises ValueError at the first step of the iteration. Pieces last about
    `block_seconds`.
    """
    if not (isfinite(block_seconds) and block_seconds > 0):
        raise ValueError(f"block_seconds is {block_seconds}; use a positive number of seconds.")
    with _opened(path) as file:
        target_rate = file.samplerate if sample_rate is None else sample_rate
        name = _name(path)
        resampler: StreamResampler | None = None
        size = max(1, round(block_seconds * file.samplerate))
        for block in _blocks(file, name, block_samples=size):
            samples = _to_channels(block, num_channels, name)
            if resampler is None:
                resampler = StreamResampler(file.samplerate, target_rate, num_channels=len(samples))
            resampled = resampler.push(samples)
            if resampled.shape[-1]:
                yield resampled
        assert resampler is not None  # a file without samples was refused
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


@contextmanager
def _opened(path: str | Path | BinarySource) -> Iterator[Any]:  # soundfile is untyped
    """Opens a file that is audio, whole, not empty and within limits; else raises ValueError."""
    name = _name(path)
    if isinstance(path, str | Path):
        if not Path(path).exists():
            raise ValueError(f"{name} does not exist; give the path of an audio file.")
        if not Path(path).is_file():
            raise ValueError(f"{name} is not a file; give the path of an audio file.")
    with Path(path).open("rb") if isinstance(path, str | Path) else nullcontext(path) as raw:
        check_complete(raw, name)
        try:
            file = _LinearFile(raw)
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw
            raise ValueError(
                f"{name} is not audio that can be read, or is damaged; "
                "give a WAV, FLAC, OGG, Opus or MP3 file."
            ) from error
        with file:
            _check_header(file, name)
            yield file


def _check_header(file: Any, name: str) -> None:
    if file.frames == 0:
        raise ValueError(
            f"{name} holds no samples, or was written to a pipe without its length; give a file "
            "with sound in it."
        )
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise ValueError(
            f"{name} has {file.channels} channels; give a file with 1 to {MAX_CHANNELS}."
        )
    try:
        check_sample_rate(file.samplerate)
    except ValueError as error:
        raise ValueError(f"{name} cannot be used: {error}") from error
    if file.format == "FLAC" and file.frames < UNKNOWN_LENGTH:
        try:
            file.seek(file.frames - 1)
            is_whole = len(file.read(1)) == 1
            file.seek(0)
        except soundfile.LibsndfileError:
            is_whole = False
        if not is_whole:
            raise ValueError(
                f"{name} is truncated: its header promises {file.frames} samples that do not "
                "all follow; get the whole file."
            )


def _info(file: Any) -> AudioInfo:
    num_samples = file.frames
    if num_samples >= UNKNOWN_LENGTH:  # FLAC written to a pipe: count, then start again
        num_samples = sum(block.shape[-1] for block in _blocks(file, "The FLAC file"))
        file.seek(0)
    return AudioInfo(
        sample_rate=file.samplerate,
        num_channels=file.channels,
        num_samples=num_samples,
        format="opus" if file.subtype == "OPUS" else file.format.lower(),
        comment=file.comment.rstrip("\0"),
    )


def _blocks(
    file: Any,
    name: str,
    *,
    begin: int = 0,
    end: int | None = None,
    block_samples: int = BLOCK_SAMPLES,
) -> Iterator[Tensor]:
    """Decodes the samples from `begin` to `end`, or to the end of the file: pieces [C, n]."""
    promised = file.frames if end is None else min(end, file.frames)
    last_page = file.frames - OGG_LAST_PAGE_SECONDS * file.samplerate
    must_decode_from_start = file.format == "OGG" and promised > last_page
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
                yield _checked(torch.from_numpy(frames.T.copy()), name)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{name} cannot be decoded after {position} samples; it is damaged or truncated, "
            "get it again."
        ) from error
    # libsndfile may only guess the length of an MP3; `check_complete` reads it off the header.
    if position <= begin or (position < promised < UNKNOWN_LENGTH and file.format != "MP3"):
        raise ValueError(
            f"{name} is truncated: it ends after {position} of {promised} samples; "
            "get the whole file."
        )


def _checked(samples: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(f"{name} holds NaN or infinite samples; repair the file.")
    return samples


def _check_segment(start: float, duration: float | None) -> None:
    if not (isfinite(start) and start >= 0):
        raise ValueError(f"The segment starts at {start} s; start at 0 or later.")
    if duration is not None and not (isfinite(duration) and duration > 0):
        raise ValueError(f"The segment lasts {duration} s; ask for more than 0.")


def _source_range(
    first: int, last: int | None, from_rate: int, to_rate: int
) -> tuple[int, int | None]:
    """The source samples that decide the resampled samples from `first` to `last`.

    They begin where a source and a resampled sample coincide, so that the grid of the segment is
    that of the whole file.
    """
    if from_rate == to_rate:
        return first, last
    step = from_rate // gcd(from_rate, to_rate)
    margin = FILTER_PERIODS * max(1, -(-from_rate // to_rate))
    begin = max(0, (first * from_rate // to_rate - margin) // step * step)
    return begin, None if last is None else -(-last * from_rate // to_rate) + margin


def _to_channels(samples: Tensor, num_channels: int | None, name: str) -> Tensor:
    """Mixes or repeats the channels of [C, N]."""
    C, N = samples.shape
    if num_channels is None or num_channels == C:
        return samples
    if num_channels == 1:
        return samples.mean(dim=0, keepdim=True)
    if C == 1 and 1 < num_channels <= MAX_CHANNELS:
        return samples.expand(num_channels, N)
    raise ValueError(
        f"{name} has {C} channels and {num_channels} were asked for; ask for 1"
        + (f" to {MAX_CHANNELS}." if C == 1 else f" or {C}.")
    )


def _name(path: str | Path | BinarySource) -> str:
    return str(path) if isinstance(path, str | Path) else "The audio given"
