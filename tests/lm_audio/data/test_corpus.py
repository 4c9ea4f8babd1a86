"""A folder of audio becomes segments; bad files are skipped, held-out ones are never drawn."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.corpus import Recording, SegmentSampler, load_corpus


def make_folder(folder: Path) -> None:
    for kind, count in (("rain", 30), ("speech", 10)):
        for number in range(count):
            samples = torch.full((1, 4_000), 0.25 if kind == "rain" else 0.5)
            write_audio(folder / kind / f"{number}-a.wav", samples, 8_000)
            if number < 5:
                write_audio(folder / kind / f"{number}-b.wav", samples, 8_000)


def test_clips_of_one_recording_stay_together(tmp_path: Path) -> None:
    make_folder(tmp_path)
    corpus = load_corpus(tmp_path, sample_rate=8_000, held_out=0.4)
    assert len(corpus.train) + len(corpus.held_out) == 50
    assert 5 < len(corpus.held_out) < 35
    recordings = [{clip.name[:-6] for clip in part} for part in (corpus.train, corpus.held_out)]
    assert not recordings[0] & recordings[1]
    again = load_corpus(tmp_path, sample_rate=8_000, held_out=0.4)
    assert [clip.name for clip in again.train] == [clip.name for clip in corpus.train]


def test_a_bad_file_is_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_folder(tmp_path)
    (tmp_path / "rain" / "broken.wav").write_bytes(b"RIFF")
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus(tmp_path, sample_rate=16_000)
    assert len(corpus.train) + len(corpus.held_out) == 50
    assert "broken.wav" in caplog.text
    assert all(len(clip.samples) == 8_000 for clip in corpus.train)


def test_an_empty_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No audio files were found below"):
        load_corpus(tmp_path, sample_rate=8_000)


def test_files_of_a_flat_folder_are_of_one_kind(tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", torch.full((1, 4_000), 0.25), 8_000)
    corpus = load_corpus(tmp_path, sample_rate=8_000, held_out=0.0)
    assert {clip.kind for clip in corpus.train} == {"audio"}
    with pytest.raises(ValueError, match=r"All 4 audio files below .* are bad or held out"):
        load_corpus(tmp_path, sample_rate=8_000, held_out=1.0)


def test_segments_come_from_their_clips_and_kinds_by_the_root_of_their_length() -> None:
    ramp = np.arange(1, 9_001, dtype=np.int16)
    clips = [Recording(kind="up", name=str(n), samples=ramp) for n in range(9)]
    clips.append(Recording(kind="down", name="down", samples=-ramp))
    batch = SegmentSampler(clips, length=100, seed=0).batch(600)[:, 0]
    assert batch.shape == (600, 100)
    steps = batch.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-6, rtol=1e-3)
    share = (steps[:, 0] < 0).float().mean().item()
    assert abs(share - 0.25) < 0.06  # roots of 9 and 1
    assert batch.abs().max() <= 0.9901


def test_the_same_seed_draws_the_same_and_a_short_clip_is_filled_up() -> None:
    clips = [Recording(kind="x", name="x", samples=np.full(50, 1000, dtype=np.int16))]
    first, second = (SegmentSampler(clips, length=80, seed=3).batch(4) for _ in range(2))
    assert torch.equal(first, second)
    assert (first[:, :, :50] != 0).all()
    assert (first[:, :, 50:] == 0).all()
