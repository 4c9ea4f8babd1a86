"""Pictures and films as prompts, read with Pillow or given as arrays.

A film is a folder of pictures, one per second, an animation (GIF, WebP or APNG), or a list of
pictures. Other formats of films are not decoded here.

Shapes: H height, W width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
"""Of the pictures in a folder."""
MOST_FRAMES = 600  # seconds
_USUAL_FRAME = 100  # milliseconds, of an animation that does not state it
_FFMPEG = "ffmpeg -i FILM -vf fps=1 FOLDER/%05d.png"


def read_picture(value: Any) -> Tensor:
    """A picture [3, H, W] with values from 0 to 1.

    Args:
        value: a path, an image of Pillow, or an array [H, W, 3] or [H, W] of type uint8.
    """
    if isinstance(value, str | Path):
        with _opened(value) as image:
            return _from_pillow(image, value)
    if hasattr(value, "convert"):
        return _from_pillow(value, "the picture")
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or not value.size:
        raise ValueError(
            "A picture must be a path, an image of Pillow or an array [H, W, 3] of type uint8, got "
            f"{_kind(value)}."
        )
    if value.ndim == 2:
        value = np.repeat(value[..., None], 3, axis=2)
    if value.ndim != 3 or value.shape[2] != 3:
        raise ValueError(f"Expected a picture [H, W, 3] or [H, W], got {list(value.shape)}.")
    return torch.from_numpy(np.ascontiguousarray(value)).permute(2, 0, 1).float() / 255


def read_film(value: Any) -> list[Tensor]:
    """The pictures [3, H, W] of a film, one per second from its start on."""
    if isinstance(value, str | Path) and Path(value).is_dir():
        found = sorted(x for x in Path(value).iterdir() if x.suffix.lower() in SUFFIXES)
        value = found
        if not found:
            raise ValueError(
                f"No pictures found in the folder of the film. Extract them: {_FFMPEG}"
            )
    if isinstance(value, str | Path):
        return _animation(value)
    if not isinstance(value, Sequence) or not value:
        raise ValueError(
            "A film must be a folder of pictures, one per second, an animation or a list of "
            f"pictures, got {_kind(value)}."
        )
    _check_length(len(value))
    return [read_picture(one) for one in value]


def fit(picture: Tensor, size: int) -> Tensor:
    """The middle of a picture [3, H, W], scaled to [3, size, size] by its shorter side."""
    _, H, W = picture.shape
    scale = size / min(H, W)
    resized = (max(size, round(H * scale)), max(size, round(W * scale)))
    x = F.interpolate(picture[None], resized, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = (resized[0] - size) // 2, (resized[1] - size) // 2
    return x[:, top : top + size, left : left + size]


def _animation(path: str | Path) -> list[Tensor]:
    made: list[Tensor] = []
    with _opened(path) as image:
        ends = 0.0
        for number in range(getattr(image, "n_frames", 1)):
            try:
                image.seek(number)
                image.load()  # some formats state the duration only now
            except (EOFError, OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{path} is damaged after frame {number}.") from error
            ends += (image.info.get("duration") or _USUAL_FRAME) / 1000
            while len(made) < ends:  # shown at this second
                _check_length(len(made) + 1)
                made.append(_from_pillow(image, path))
    return made


def _opened(path: str | Path) -> Any:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ValueError(
            "Reading pictures needs Pillow. Install it with: pip install 'lm-audio[pictures]'."
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"No such picture: {path}")
    try:
        return Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise ValueError(
            f"Could not read {path} as a picture. For the frames of a film: {_FFMPEG}"
        ) from error


def _from_pillow(image: Any, name: object) -> Tensor:
    try:
        return read_picture(np.array(image.convert("RGB")))
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"Could not read {name}: it is truncated or damaged.") from error


def _check_length(num_frames: int) -> None:
    if num_frames > MOST_FRAMES:
        raise ValueError(f"A film must have at most {MOST_FRAMES} pictures, one per second.")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of type {value.dtype}"
    return f"a {type(value).__name__}"
