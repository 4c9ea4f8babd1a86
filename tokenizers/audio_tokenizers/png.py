"""Reads and writes PNG images of 8 bits per sample, their EXIF tags and their comment.

Only what spectrogram images need: no palette, no transparency, no interlacing.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

SUFFIX = ".png"
MAGIC = b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 1 << 27
_COLOURS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type: the samples of a pixel
_TIFF = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
_RATIONAL = {5: "II", 10: "ii"}
_SHORT, _LONG, _DOUBLE = 3, 4, 12
_KEYWORD = b"Comment\0"


class PngError(ValueError):
    """A file cannot be read; the message is a sentence without the file's name and full stop."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Png:
    """An image.

    Args:
        pixels: [height, width, 3], uint8.
        exif: numbers by tag.
        comment: Latin-1.
    """

    pixels: np.ndarray
    exif: Mapping[int, float] = field(default_factory=dict)
    comment: str = ""


def encode_png(image: Png) -> bytes:
    """The bytes of a file."""
    height, width, _ = image.pixels.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # a row begins with filter 0: none
    rows[:, 1:] = image.pixels.reshape(height, -1)
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    if image.exif:
        chunks.append(_chunk(b"eXIf", _encode_exif(image.exif)))
    if image.comment:
        chunks.append(_chunk(b"tEXt", _KEYWORD + image.comment.encode("latin-1")))
    chunks += [_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), _chunk(b"IEND", b"")]
    return MAGIC + b"".join(chunks)


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedPng:
    """An image whose pixels are still compressed: its size and tags are known at no cost."""

    width: int
    height: int
    colour: int
    packed: bytes
    exif: Mapping[int, float]
    comment: str

    def pixels(self) -> np.ndarray:
        """[height, width, 3], uint8; raises as `read_png`."""
        found = _unfiltered(self.packed, self.width, self.height, _COLOURS[self.colour])
        if self.colour in (0, 4):
            found = found[..., :1].repeat(3, axis=2)
        return found[..., :3]


def decode_png(data: bytes) -> Png:
    """Reads an image; raises as `read_png`."""
    found = read_png(data)
    return Png(pixels=found.pixels(), exif=found.exif, comment=found.comment)


def read_png(data: bytes) -> PackedPng:
    """Reads all but the pixels; raises PngError if it cannot."""
    head: tuple[int, ...] | None = None
    packed: list[bytes] = []
    exif: dict[int, float] = {}
    comment = ""
    for kind, body in _chunks(data):
        if kind == b"IHDR" and len(body) == 13:
            head = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed.append(body)
        elif kind == b"eXIf":
            exif = _decode_exif(body)
        elif kind == b"tEXt" and body.startswith(_KEYWORD):
            comment = body[len(_KEYWORD) :].decode("latin-1")
    if head is None:
        raise PngError("is a damaged PNG image: it has no header")
    width, height, depth, colour, *methods = head
    if depth != 8 or colour not in _COLOURS or any(methods):
        raise PngError(
            "is a PNG image that is not supported; expected 8 bits per sample, in grey or RGB, "
            "without interlacing"
        )
    if not 0 < width * height <= MOST_PIXELS:
        raise PngError(f"is a PNG image of {width} x {height} pixels, which is too large")
    return PackedPng(
        width=width,
        height=height,
        colour=colour,
        packed=b"".join(packed),
        exif=exif,
        comment=comment,
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of all chunks."""
    place = len(MAGIC)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if end + 4 > len(data):
            break
        body = data[place + 8 : end]
        if struct.unpack_from(">I", data, end)[0] != zlib.crc32(kind + body):
            raise PngError("is a damaged PNG image: a checksum is wrong")
        yield kind, body
        if kind == b"IEND":
            return
        place = end + 4
    raise PngError("is a truncated PNG image")


def _unfiltered(packed: bytes, width: int, height: int, size: int) -> np.ndarray:
    """The pixels [height, width, size] of compressed, filtered rows."""
    expected = height * (1 + width * size)
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, expected)
    except zlib.error:
        raise PngError("is a damaged PNG image: its pixels cannot be unpacked") from None
    if len(raw) != expected:
        raise PngError("is a damaged PNG image: pixels are missing")
    rows = np.frombuffer(raw, dtype=np.uint8).reshape(height, 1 + width * size)
    made = np.zeros((height, width, size), dtype=np.uint8)
    above = np.zeros((width, size), dtype=np.uint8)
    for row, out in zip(rows, made, strict=True):
        out[:] = above = _row(int(row[0]), row[1:].reshape(width, size), above)
    return made


def _row(kind: int, x: np.ndarray, above: np.ndarray) -> np.ndarray:
    """A row [width, size] without its filter; uint8 arithmetic wraps, as the filters do."""
    if kind == 0:
        return x
    if kind == 1:
        return np.cumsum(x, axis=0, dtype=np.uint8)
    if kind == 2:
        return x + above
    if kind not in (3, 4):
        raise PngError("is a damaged PNG image: a filter is unknown")
    made = np.empty_like(x)
    for channel in range(x.shape[1]):
        left = corner = 0
        row = []
        for value, up in zip(x[:, channel].tolist(), above[:, channel].tolist(), strict=True):
            if kind == 3:
                left = (value + (left + up) // 2) & 255
            else:
                left = (value + _nearest(left, up, corner)) & 255
            corner = up
            row.append(left)
        made[:, channel] = row
    return made


def _nearest(left: int, up: int, corner: int) -> int:
    """Paeth's predictor: of three neighbours the one nearest to left + up - corner."""
    by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner


def _encode_exif(tags: Mapping[int, float]) -> bytes:
    """A TIFF header with one directory: integers as SHORT or LONG, other numbers as DOUBLE."""
    entries, values = [], b""
    first = 8 + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        if isinstance(value, int):
            kind = _SHORT if value < 1 << 16 else _LONG
            held = struct.pack("<H2x" if kind == _SHORT else "<I", value)
        else:
            kind, held = _DOUBLE, struct.pack("<I", first + len(values))
            values += struct.pack("<d", value)
        entries.append(struct.pack("<HHI", tag, kind, 1) + held)
    directory = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8) + directory + values


def _decode_exif(data: bytes) -> dict[int, float]:
    """The single numbers in the first directory; other tags are left out."""
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return {}
    found: dict[int, float] = {}
    try:
        (place,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, place)
        for i in range(count):
            entry = place + 2 + 12 * i
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            form = order + _TIFF.get(kind, _RATIONAL.get(kind, ""))
            if number != 1 or form == order:
                continue
            where = entry + 8
            if struct.calcsize(form) > 4:
                (where,) = struct.unpack_from(f"{order}I", data, where)
            value = struct.unpack_from(form, data, where)
            found[tag] = value[0] if len(value) == 1 else value[0] / (value[1] or 1)
    except struct.error:
        return {}
    return found
