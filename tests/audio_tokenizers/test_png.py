"""PNG files against Pillow, both ways, and files that are refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audio_tokenizers.png import MAGIC, Png, _chunk, decode_png, encode_png, read_png

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(40), 2 * np.arange(50))[..., None].astype(np.uint8).repeat(3, 2)
EXIF = {11_000: 44_100, 11_005: 0, 11_070: 0.25, 11_080: 3e7}


def pillows(pixels: np.ndarray, *, exif: Any = None, **settings: Any) -> bytes:
    file = io.BytesIO()
    given = {} if exif is None else {"exif": exif}
    Image.fromarray(pixels).save(file, format="PNG", **given, **settings)
    return file.getvalue()


def test_pillow_reads_our_files() -> None:
    data = encode_png(Png(pixels=PIXELS, exif=EXIF, comment="rain"))
    image: Any = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    assert np.array_equal(np.array(image), PIXELS)
    assert dict(image.getexif()) == EXIF
    assert image.text == {"Comment": "rain"}


@pytest.mark.parametrize("pixels", [PIXELS, SMOOTH], ids=["noise", "smooth"])
def test_we_read_pillows_files(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif.update(EXIF)
    found = decode_png(pillows(pixels, exif=exif))
    assert np.array_equal(found.pixels, pixels)
    assert found.exif == EXIF
    assert decode_png(pillows(pixels)).exif == {}
    grey = decode_png(pillows(pixels[..., 0]))
    assert np.array_equal(grey.pixels, pixels[..., :1].repeat(3, 2))
    see_through = np.concatenate([pixels, pixels[..., :1]], axis=2)
    assert np.array_equal(decode_png(pillows(see_through)).pixels, pixels)


@pytest.mark.parametrize("kind", range(5))
def test_each_filter_is_undone(kind: int) -> None:
    """Rows filtered by the formulas of the specification."""
    height, width, size = SMOOTH.shape
    padded = np.zeros((height + 1, width + 1, size), dtype=np.int64)
    padded[1:, 1:] = SMOOTH
    left, up, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
    guess = left + up - corner
    distances = np.stack([abs(guess - x) for x in (left, up, corner)])
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    predicted = [0 * left, left, up, (left + up) // 2, paeth][kind]
    rows = ((SMOOTH - predicted) % 256).astype(np.uint8).reshape(height, -1)
    raw = b"".join(bytes([kind]) + row.tobytes() for row in rows)
    data = MAGIC + b"".join(
        [
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(raw)),
            _chunk(b"IEND", b""),
        ]
    )  # fmt: skip
    assert np.array_equal(decode_png(data).pixels, SMOOTH)
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), SMOOTH)


def test_damaged_and_unsupported_files_are_refused() -> None:
    data = encode_png(Png(pixels=PIXELS))
    with pytest.raises(ValueError, match="is a truncated PNG image"):
        decode_png(data[:-20])
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    with pytest.raises(ValueError, match="a checksum is wrong"):
        decode_png(bytes(changed))
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert("P").save(file, format="PNG")
    with pytest.raises(ValueError, match="is not supported; expected 8 bits per sample"):
        decode_png(file.getvalue())
    bomb = _chunk(b"IHDR", b"\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0") + _chunk(b"IEND", b"")
    with pytest.raises(ValueError, match="which is too large"):
        decode_png(MAGIC + bomb)


def test_the_pixels_of_a_large_image_are_not_unpacked_to_read_its_size() -> None:
    """Neither are those of an image that states less than it holds."""
    head = struct.pack(">IIBBBBB", 1 << 17, 1 << 10, 8, 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", head), _chunk(b"IDAT", b"broken"), _chunk(b"IEND", b"")]
    image = read_png(MAGIC + b"".join(chunks))
    assert (image.width, image.height) == (131_072, 1024)
    with pytest.raises(ValueError, match="its pixels cannot be unpacked"):
        image.pixels()
    much = zlib.compress(bytes(100_000_000))
    head = struct.pack(">IIBBBBB", 9, 1, 8, 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", head), _chunk(b"IDAT", much), _chunk(b"IEND", b"")]
    assert read_png(MAGIC + b"".join(chunks)).pixels().shape == (1, 9, 3)
