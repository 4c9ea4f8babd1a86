"""Refuses audio files that were cut short, which libsndfile reads without a word.

- WAV: the header's data size must not exceed the file. Programs that write to a pipe leave a huge
  number there; such a file counts as whole.
- OGG (Vorbis, Opus): the last page must be whole and marked as the end of its stream.
- MP3: the size in the Xing or Info header, which nearly every encoder writes. Files without that
  header are not checked.

FLAC is checked where it is decoded, by seeking to the last sample that its header promises.
"""

import io
import struct
from typing import Protocol

# Sizes from here up are what writers to a pipe leave in the header (sox: 0x7FFFF000).
UNKNOWN_WAV_SIZE = 0x7FFFF000
MAX_OGG_PAGE = 65_307
MAX_MP3_FRAME = 2_881
MP3_TAG_SIZE = 256  # tags that the encoder counted may have been stripped since


class BinarySource(Protocol):
    """A seekable binary file open for reading, as from `open(path, "rb")` or `io.BytesIO`."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int: ...

    def tell(self) -> int: ...


def check_complete(file: BinarySource, name: str) -> None:
    """Raises ValueError for an empty or truncated file; leaves the position at the start.

    Args:
        name: names the file in the message.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise ValueError(f"{name} is empty (0 bytes); give an audio file.")
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _check_wav(file, size, name)
    elif head[:4] == b"OggS":
        _check_ogg(file, size, name)
    elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        _check_mp3(file, head, size, name)
    file.seek(0)


def _check_wav(file: BinarySource, size: int, name: str) -> None:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        rest = size - position - 8
        if kind == b"data" and rest < length < UNKNOWN_WAV_SIZE:
            raise ValueError(
                f"{name} is truncated: its header promises {length} bytes of samples and "
                f"{rest} follow; get the whole file."
            )
        if kind == b"data":
            return
        position += 8 + length + length % 2


def _check_ogg(file: BinarySource, size: int, name: str) -> None:
    file.seek(max(0, size - 2 * MAX_OGG_PAGE))
    tail = file.read()
    page = tail.rfind(b"OggS\0")
    if page >= 0 and len(tail) - page >= 27:
        num_segments = tail[page + 26]
        sizes = tail[page + 27 : page + 27 + num_segments]
        is_whole = page + 27 + num_segments + sum(sizes) <= len(tail)
        if is_whole and tail[page + 5] & 4:
            return
    raise ValueError(f"{name} is truncated: its last page does not end it; get the whole file.")


def _check_mp3(file: BinarySource, head: bytes, size: int, name: str) -> None:
    start = 0
    if head[:3] == b"ID3":
        a, b, c, d = head[6:10]
        start = 10 + (a << 21 | b << 14 | c << 7 | d)
    file.seek(start)
    first = file.read(MAX_MP3_FRAME)
    position = max(first.find(mark, 4, 64) for mark in (b"Xing", b"Info"))
    if position < 0 or len(first) < position + 16:
        return
    flags, _, num_bytes = struct.unpack(">III", first[position + 4 : position + 16])
    if flags & 3 == 3 and start + num_bytes > size + MP3_TAG_SIZE:
        raise ValueError(
            f"{name} is truncated: its header promises {num_bytes} bytes and "
            f"{size - start} follow; get the whole file."
        )
