"""The log holds what was reported; only one process writes it."""

import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lm_audio.training.tracking import Tracker, spectrogram_picture


def test_numbers_sounds_and_texts_are_in_the_log(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path)
    for step in (1, 2):
        tracker.numbers({"loss/train": 1.0 / step, "norm": 3.0}, step=step)
    samples = torch.sin(torch.arange(8000) * 0.3).expand(2, -1)
    tracker.sound("sample 0", samples, 16_000, step=2)
    tracker.text("caption", "rain", step=2)
    tracker.close()
    log = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in log.Scalars("loss/train")] == [
        (1, 1.0),
        (2, 0.5),
    ]
    (audio,) = log.Audio("sample 0")
    assert (audio.step, audio.sample_rate, audio.length_frames) == (2, 16_000.0, 8000)
    (picture,) = log.Images("sample 0")
    assert picture.width > 1
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert any(tag.startswith("caption") for tag in log.Tags()["tensors"])


def test_what_a_killed_run_logged_and_lost_does_not_count(tmp_path: Path) -> None:
    for after, last, loss in ((0, 5, 1.0), (3, 4, 0.5)):
        tracker = Tracker(tmp_path, after=after)
        for step in range(after + 1, last + 1):
            tracker.numbers({"loss": loss}, step=step)
        tracker.close()
    log = EventAccumulator(str(tmp_path)).Reload()
    found = [(event.step, event.value) for event in log.Scalars("loss")]
    assert found == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5)]


def test_a_process_that_may_not_writes_nothing(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "log", active=False)
    tracker.numbers({"loss": 1.0}, step=1)
    tracker.sound("x", torch.zeros(1, 100), 16_000, step=1)
    tracker.text("x", "y", step=1)
    tracker.close()
    assert not (tmp_path / "log").exists()


def test_a_spectrogram_shows_low_tones_below_and_high_ones_above() -> None:
    time = torch.arange(16_000) / 16_000
    tones = [torch.sin(2 * torch.pi * hertz * time)[None] for hertz in (150, 6000)]
    low, high = (spectrogram_picture(tone, 16_000) for tone in tones)
    assert low.shape[0] == 3
    assert low.min() >= 0
    assert low.max() <= 1
    brightest = [int(picture.sum(0).mean(1).argmax()) for picture in (low, high)]
    height = low.shape[1]
    assert brightest[0] > 0.8 * height
    assert brightest[1] < 0.3 * height


def test_a_missing_tensorboard_is_one_clear_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"needs tensorboard. Install it with: pip install 'lm-a"):
        Tracker(tmp_path)
