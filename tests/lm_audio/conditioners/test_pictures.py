"""Pictures and films: every way to give them, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lm_audio.conditioners.pictures import MOST_FRAMES, fit, read_film, read_picture


def pixels(seed: int = 0, size: tuple[int, int] = (20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_files_arrays_and_images_of_pillow_are_the_same_picture(tmp_path: Path) -> None:
    image = pixels()
    expected = torch.from_numpy(image).permute(2, 0, 1) / 255
    Image.fromarray(image).save(tmp_path / "x.png")
    for value in (image, Image.fromarray(image), tmp_path / "x.png", str(tmp_path / "x.png")):
        assert torch.equal(read_picture(value), expected)
    grey = image[..., 0]
    assert torch.equal(read_picture(grey), expected[:1].expand(3, -1, -1))
    assert torch.equal(read_picture(Image.fromarray(grey)), expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize("size", [(40, 60), (90, 50), (224, 224), (16, 300)])
def test_the_middle_is_scaled_as_pillow_does(size: tuple[int, int]) -> None:
    smooth = Image.fromarray(pixels(size=(5, 5))).resize(size[::-1], Image.Resampling.BICUBIC)
    scale = 32 / min(size)
    whole = (max(32, round(size[1] * scale)), max(32, round(size[0] * scale)))
    small = np.asarray(smooth.resize(whole, Image.Resampling.BICUBIC))
    top, left = (whole[1] - 32) // 2, (whole[0] - 32) // 2
    expected = read_picture(small[top : top + 32, left : left + 32].copy())
    made = fit(read_picture(smooth), 32)
    assert made.shape == (3, 32, 32)
    assert (made - expected).abs().max() < 0.01


def test_a_film_is_a_folder_a_list_or_an_animation(tmp_path: Path) -> None:
    frames = [pixels(seed) for seed in range(5)]
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    expected = torch.stack([read_picture(frame) for frame in frames])
    assert torch.equal(torch.stack(read_film(tmp_path)), expected)
    assert torch.equal(torch.stack(read_film(frames)), expected)
    first, *rest = map(Image.fromarray, frames)
    path = tmp_path / "film.webp"
    first.save(path, save_all=True, append_images=rest, duration=400, lossless=True)
    assert torch.equal(torch.stack(read_film(path)), expected[[0, 2]])  # at 0 and 1 s of 2 s
    first.save(path, save_all=True, append_images=rest[:1], duration=[1500, 1000], lossless=True)
    assert torch.equal(torch.stack(read_film(path)), expected[[0, 0, 1]])
    assert len(read_film(tmp_path / "001.png")) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "A picture must be a path, .* got a int"),
        (np.zeros((4, 4, 3)), "of type uint8, got an array of type float64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"Expected a picture \[H, W, 3\] or \[H, W\], got"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "A picture must be"),
    ],
)
def test_other_values_are_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_picture(value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such picture"):
        read_picture(tmp_path / "none.png")
    film = tmp_path / "film.mp4"
    film.write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(ValueError, match=r"For the frames of a film: ffmpeg -i FILM -vf fps=1"):
        read_film(film)
    path = tmp_path / "cut.png"
    Image.fromarray(pixels(size=(200, 200))).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_picture(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No pictures found in the folder of the film"):
        read_film(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"A film must be a folder .* got a int"):
        read_film(7)
    with pytest.raises(ValueError, match=f"at most {MOST_FRAMES} pictures"):
        read_film([pixels(size=(1, 1))] * (MOST_FRAMES + 1))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"Install it with: pip install 'lm-audio\[pictures\]'"):
        read_picture(tmp_path / "x.png")
    assert read_picture(pixels()).shape == (3, 20, 30)
