"""Finds audio files that were cut short, from their headers and last bytes alone.

- WAV: the size in the header of the data against the size of the file. Programs that write to a
  pipe leave 0 or a huge number there; such a file is whole as far as anyone can tell.
- OGG (Vorbis, Opus): the last page must be whole and marked as the end of its stream.
- MP3: the size in the Xing or Info header, which nearly every encoder writes. A file without that
  header has no end to check; what decodes is what there is.

FLAC is checked where it is decoded, by seeking to the last sample that its header promises.
"""

import io
import struct
from collections.abc import Iterator
from typing import Protocol

# Sizes from here up are what writers to a pipe leave in the header (sox: 0x7FFFF000).
UNKNOWN_WAV_SIZE = 0x7FFFF000
MAX_OGG_PAGE = 65_307
MAX_MP3_FRAME = 2_881
# A tag of 128 bytes that the encoder counted may have been stripped since.
MP3_SIZE_SLACK = 256


class BinarySource(Protocol):
    """A seekable binary file open for reading: what `open(path, "rb")` or `io.BytesIO` give."""

    def read(self, size: int = -1, /) -> bytes: ...

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int: ...

    def tell(self) -> int: ...


def check_complete(file: BinarySource, name: str) -> BinarySource:
    """Raises ValueError for a truncated file; else returns a file that libsndfile reads in full.

    Args:
        file: a seekable binary file; its position is lost.
        name: names the file in the message.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise ValueError(f"{name} is empty (0 bytes); give an audio file.")
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        is_consistent = int.from_bytes(head[4:8], "little") == size - 8
        file = _complete_wav(file, size, name, may_be_empty=is_consistent)
    elif head[:4] == b"OggS":
        _check_ogg(file, size, name)
    elif head[:3] == b"ID3" or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2):
        _check_mp3(file, head, size, name)
    file.seek(0)
    return file


def _complete_wav(file: BinarySource, size: int, name: str, *, may_be_empty: bool) -> BinarySource:
    position = 12
    while position + 8 <= size:
        file.seek(position)
        kind, length = struct.unpack("<4sI", file.read(8))
        rest = size - position - 8
        if kind == b"data":
            if length == 0 and rest > 0 and not may_be_empty:
                # libsndfile would read 0 samples here, and the rest of the file if told "unknown".
                return _Patched(file, position + 4, b"\xff\xff\xff\xff")
            if rest < length < UNKNOWN_WAV_SIZE:
                raise ValueError(
                    f"{name} is truncated: its header promises {length} bytes of samples and "
                    f"{rest} follow; get the whole file."
                )
            break
        position += 8 + length + length % 2
    return file


def _check_ogg(file: BinarySource, size: int, name: str) -> None:
    tail_start = max(0, size - 2 * MAX_OGG_PAGE)
    file.seek(tail_start)
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
    for mark in (b"Xing", b"Info"):
        position = first.find(mark, 4, 64)
        if position < 0 or len(first) < position + 16:
            continue
        flags, _, num_bytes = struct.unpack(">III", first[position + 4 : position + 16])
        if flags & 3 == 3 and start + num_bytes > size + MP3_SIZE_SLACK:
            raise ValueError(
                f"{name} is truncated: its header promises {num_bytes} bytes and "
                f"{size - start} follow; get the whole file."
            )
        return
    # libsndfile guesses the length from the first frame then, and would drop the rest.
    if len(set(_mp3_bit_rates(file, start))) > 1:
        raise ValueError(
            f"{name} is an MP3 of variable bit rate without the header that tells its length; "
            "convert it to WAV or FLAC."
        )


def _mp3_bit_rates(file: BinarySource, position: int, limit: int = 1000) -> Iterator[int]:
    """The bit rates, in kb/s, of the first frames from `position` on."""
    rates_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    rates_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    for _ in range(limit):
        file.seek(position)
        header = file.read(4)
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
            return
        version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
        rate_index, sample_rate_index = header[2] >> 4, header[2] >> 2 & 3
        if version == 1 or rate_index in (0, 15) or sample_rate_index == 3:
            return
        bit_rate = (rates_1 if version == 3 else rates_2)[rate_index]
        sample_rate = (44_100, 48_000, 32_000)[sample_rate_index] >> {3: 0, 2: 1, 0: 2}[version]
        yield bit_rate
        padding = header[2] >> 1 & 1
        position += (144 if version == 3 else 72) * bit_rate * 1000 // sample_rate + padding


class _Patched:
    """A file of which a few bytes read differently."""

    def __init__(self, file: BinarySource, position: int, patch: bytes) -> None:
        self._file = file
        self._position = position
        self._patch = patch

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        for i, byte in enumerate(self._patch, self._position - start):
            if 0 <= i < len(data):
                data[i] = byte
        return bytes(data)
