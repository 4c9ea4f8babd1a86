"""Inspects audio files: whether one is truncated, and formats that need ffmpeg.

libsndfile does not report truncation. A file is truncated if:

- WAV: the header's data size exceeds the file. Programs that write to a pipe leave a huge number
  there; such a file counts as complete.
- OGG (Vorbis, Opus): the last page is incomplete or is not marked as the end of its stream.
- MP3: the size in the Xing or Info header, which nearly every encoder writes, exceeds the file.
  Files without that header are not checked.

FLAC is checked where it is decoded, by seeking to its last sample.
"""

import io
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

# Sizes from here up are what writers to a pipe leave in the header (sox: 0x7FFFF000).
UNKNOWN_WAV_SIZE = 0x7FFFF000
MAX_OGG_PAGE = 65_307
MAX_MP3_FRAME = 2_881
MP3_TAG_SIZE = 256  # tags that the encoder counted may have been stripped since

MAX_BYTES = 1 << 30  # of decoded audio, where its length is limited
NEAR = 1 << 20  # ffmpeg may stop up to a packet before or after its limit

# The name of a format, and that of ffmpeg's reader for it.
_READERS = {"mp4": "mov", "webm": "matroska", "wma": "asf", "aac": "aac"}


class BinarySource(Protocol):
    """A seekable binary file open for reading, as from `open(path, "rb")` or `io.BytesIO`."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int: ...

    def tell(self) -> int: ...


class LongAudioError(ValueError):
    """Audio is longer than allowed."""


@contextmanager
def converted(
    file: BinarySource, name: str, *, max_seconds: float | None = None
) -> Iterator[tuple[BinarySource, str | None]]:
    """The file itself, or a WAV file from ffmpeg and the name of the original format.

    Args:
        max_seconds: ffmpeg stops after that, and at `MAX_BYTES`, where it then raises ValueError.
    """
    file.seek(0)
    container = _container(file.read(12))
    file.seek(0)
    if container is None:
        yield file, None
        return
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise ValueError(
            f"{name} is {container.upper()} audio, which needs ffmpeg on the PATH. Install ffmpeg, "
            "or convert the file to WAV."
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source"), Path(folder, "target.wav")
        with source.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        # With a fixed reader that may only open files, the content cannot make ffmpeg fetch others.
        reading = ["-protocol_whitelist", "file", "-f", _READERS[container], "-i", f"file:{source}"]
        writing = ["-map", "0:a:0", "-c:a", "pcm_f32le", "-rf64", "auto"]
        if max_seconds is not None:  # a small file can hold hours
            writing += ["-t", f"{max_seconds + 1:g}", "-fs", str(MAX_BYTES)]
        writing.append(f"file:{target}")
        command: list[Any] = [ffmpeg, "-nostdin", "-v", "error", *reading, *writing]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode or not target.exists():
            reasons = done.stderr.replace(f"file:{source}", name).strip().splitlines()
            raise ValueError(f"ffmpeg cannot decode {name}: {(reasons or ['no audio'])[-1]}")
        if max_seconds is not None and target.stat().st_size > MAX_BYTES - NEAR:
            raise LongAudioError(f"{name} decodes to more than {MAX_BYTES >> 20} MiB.")
        with target.open("rb") as wav:
            yield wav, container


def _container(head: bytes) -> str | None:
    """The name of a format that needs ffmpeg, from the first bytes of a file."""
    if head[4:8] == b"ftyp":
        return "mp4"
    if head[:4] == b"\x1aE\xdf\xa3":
        return "webm"
    if head[:4] == b"0&\xb2u":
        return "wma"
    # An MP3 frame starts with the same bits, except that its layer is not zero.
    return "aac" if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0 else None


def is_truncated(file: BinarySource) -> bool:
    """Whether a WAV, OGG or MP3 file was cut short; leaves the position at the start."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    truncated = False
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        truncated = _is_cut_wav(file, size)
    elif head[:4] == b"OggS":
        truncated = _is_cut_ogg(file, size)
    elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        truncated = _is_cut_mp3(file, head, size)
    file.seek(0)
    return truncated


def _is_cut_wav(file: BinarySource, size: int) -> bool:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"data":
            return size - position - 8 < length < UNKNOWN_WAV_SIZE
        position += 8 + length + length % 2
    return False


def _is_cut_ogg(file: BinarySource, size: int) -> bool:
    file.seek(max(0, size - 2 * MAX_OGG_PAGE))
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page < 0 or len(tail) - page < 27:
        return True
    num_segments = tail[page + 26]
    sizes = tail[page + 27 : page + 27 + num_segments]
    is_whole = page + 27 + num_segments + sum(sizes) <= len(tail)
    return not (is_whole and tail[page + 5] & 4)


def _is_cut_mp3(file: BinarySource, head: bytes, size: int) -> bool:
    start = 0
    if head[:3] == b"ID3":
        a, b, c, d = head[6:10]
        start = 10 + (a << 21 | b << 14 | c << 7 | d)
    file.seek(start)
    first = file.read(MAX_MP3_FRAME)
    position = max(first.find(mark, 4, 64) for mark in (b"Xing", b"Info"))
    if position < 0 or len(first) < position + 16:
        return False
    flags, _, num_bytes = struct.unpack(">III", first[position + 4 : position + 16])
    return bool(flags & 3 == 3 and start + num_bytes > size + MP3_TAG_SIZE)
