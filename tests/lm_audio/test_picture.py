"""Pictures of sound: spectrograms, their axes, and the formats of files."""

import sys
import warnings
from pathlib import Path

import pytest
import torch

from lm_audio.picture import (
    DYNAMIC_RANGE,
    FFT_LENGTH,
    NUM_MELS,
    TITLE_LETTERS,
    band_of,
    draw_sound,
    log_mels,
)

RATE = 24_000


@pytest.fixture
def tone() -> torch.Tensor:
    return 0.5 * (2 * torch.pi * 440 * torch.arange(RATE) / RATE).sin()[None]


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0, 10_000.0])
def test_a_tone_peaks_at_its_place_on_the_axis(frequency: float) -> None:
    mels = log_mels((2 * torch.pi * frequency * torch.arange(RATE) / RATE).sin()[None], RATE)
    assert abs(int(mels.median(dim=1).values.argmax()) - band_of(frequency, RATE)) <= 1
    assert mels.max() == 0
    assert mels.min() == -DYNAMIC_RANGE


@pytest.mark.parametrize("num_samples", [1, FFT_LENGTH // 2, 10 * RATE * 60])
def test_a_spectrogram_of_any_length_has_a_picture_of_sane_width(num_samples: int) -> None:
    mels = log_mels(torch.zeros(1, num_samples), RATE)
    assert mels.shape[0] == NUM_MELS
    assert 1 <= mels.shape[1] <= 2001


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a.png", b"\x89PNG"),
        ("a.jpg", b"\xff\xd8\xff"),
        ("a.JPEG", b"\xff\xd8"),
        ("a.svg", b"<?xml"),
        ("a.pdf", b"%PDF"),
    ],
)
def test_sound_is_drawn_in_every_format(
    tone: torch.Tensor, tmp_path: Path, name: str, start: bytes
) -> None:
    pytest.importorskip("matplotlib")
    draw_sound(tmp_path / name, tone, RATE, title="a tone")
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_axes_have_units_and_samples_beyond_full_scale_are_in_the_picture(
    tone: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    draw_sound(tmp_path / "a.svg", 8 * tone, RATE, title="a tone")
    drawn = (tmp_path / "a.svg").read_text()
    for text in ("a tone", "frequency (Hz)", "1,000", "10,000", "level (dB)", "seconds", "4"):
        assert f"<!-- {text} -->" in drawn


@pytest.mark.parametrize("title", ["costs $5 or $6", "狗在叫 🐶", "rain " * 100])
def test_any_title_is_drawn_in_two_lines_without_a_warning(
    tone: torch.Tensor, tmp_path: Path, title: str
) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_sound(tmp_path / "a.svg", tone, RATE, title=title)
    if title.startswith("rain"):
        drawn = (tmp_path / "a.svg").read_text()
        assert "rain ... -->" in drawn
        assert drawn.count("rain") <= 2 * TITLE_LETTERS / len("rain ")


def test_a_plot_without_matplotlib_says_how_to_get_it(
    tone: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lm-audio\[plot\]'"):
        draw_sound(tmp_path / "clip.png", tone, RATE, title="a tone")
    assert not list(tmp_path.iterdir())


def test_a_plot_in_another_format_is_refused(tone: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"Use one of the suffixes \.png, \.jpg, \.jpeg, \.svg, \.pdf\.$"
    ):
        draw_sound(tmp_path / "clip.tiff", tone, RATE, title="a tone")
