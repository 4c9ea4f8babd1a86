"""Audio becomes segments, wherever it is; bad files are skipped, held-out ones never drawn."""

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.corpus import (
    Recording,
    SegmentSampler,
    load_corpora,
    load_corpus,
    recording_of,
)
from lm_audio.data.manifest import make_cut, write_cuts
from lm_audio.data.shards import Example, Stream, shard_path, write_shard


def make_folder(folder: Path) -> None:
    for kind, count in (("rain", 30), ("speech", 10)):
        for number in range(count):
            samples = torch.full((1, 4_000), 0.25 if kind == "rain" else 0.5)
            write_audio(folder / kind / f"{number}-a.wav", samples, 8_000)
            if number < 5:
                write_audio(folder / kind / f"{number}-b.wav", samples, 8_000)


def test_clips_of_one_recording_stay_together(tmp_path: Path) -> None:
    make_folder(tmp_path)
    corpus = load_corpus(tmp_path, sample_rate=8_000)
    assert len(corpus.train) + len(corpus.held_out) == 50
    assert 0 < len(corpus.held_out) < 15
    recordings = [
        {clip.name.removesuffix(".wav")[:-2] for clip in part}
        for part in (corpus.train, corpus.held_out)
    ]
    assert not recordings[0] & recordings[1]
    again = load_corpus(tmp_path, sample_rate=8_000)
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
    with pytest.raises(ValueError, match=r"No audio files found in"):
        load_corpus(tmp_path, sample_rate=8_000)


def test_files_of_a_flat_folder_are_of_one_kind(tmp_path: Path) -> None:
    for number in range(4):
        write_audio(tmp_path / f"{number}.wav", torch.full((1, 4_000), 0.25), 8_000)
    corpus = load_corpus(tmp_path, sample_rate=8_000)
    assert {clip.kind for clip in corpus.train} == {"audio"}
    assert len(corpus.held_out) == 1


def test_numbered_files_are_recordings_of_their_own(tmp_path: Path) -> None:
    for kind in ("bird", "dog"):
        for number in range(20):
            path = tmp_path / f"{kind}-{number:02}.wav"
            write_audio(path, torch.full((1, 400), 0.25), 8_000)
            write_audio(tmp_path / path.stem / "audio.wav", torch.full((1, 400), 0.25), 8_000)
    corpus = load_corpus(tmp_path, sample_rate=8_000)
    assert 1 <= len(corpus.held_out) <= 12
    assert len(corpus.train) + len(corpus.held_out) == 80
    assert {recording_of(Path(f"a/1-17092-{part}.ogg")) for part in "AB"} == {"a/1-17092"}


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere is not a folder. Give a folder of audio"):
        load_corpus(tmp_path / "nowhere", sample_rate=8_000)


def test_a_single_recording_is_too_few(tmp_path: Path) -> None:
    for part in "abc":
        write_audio(tmp_path / f"bird-{part}.wav", torch.full((1, 4_000), 0.25), 8_000)
    with pytest.raises(ValueError, match=r"Found 1 usable recordings in 3 audio files of"):
        load_corpus(tmp_path, sample_rate=8_000)


def ramp_shards(folder: Path, *, num_channels: int = 1, rate: int = 8_000) -> Path:
    """Two clips to train from, [0, 1, ...] and [10000, 10001, ...], and one held out."""
    stream = Stream(
        rate=Fraction(rate), num_codebooks=num_channels, num_tokens=None, identity="pcm"
    )
    for split, starts in (("train", (0, 10_000)), ("held_out", (20_000,))):
        ramps = [
            torch.stack([torch.arange(start, start + 500) + 10 * c for c in range(num_channels)])
            for start in starts
        ]
        examples = [
            Example(id=f"{split}-{i}", streams={"samples": ramp}, conditions={})
            for i, ramp in enumerate(ramps)
        ]
        write_shard(shard_path(folder, split, 0), examples, {"samples": stream})
    return folder


def test_shards_are_read_where_they_are_sliced_and_mixed_to_mono(tmp_path: Path) -> None:
    corpus = load_corpus(ramp_shards(tmp_path / "ramps", num_channels=2), sample_rate=8_000)
    assert [clip.kind for clip in corpus.train] == ["ramps", "ramps"]
    assert [clip.name for clip in corpus.held_out] == ["held_out-0"]
    second = corpus.train[1].samples
    assert len(second) == 500
    assert second[3:6].tolist() == [10_008, 10_009, 10_010]
    assert second[495:600].tolist() == list(range(10_500, 10_505))
    assert SegmentSampler(corpus.train, length=40, batch_size=3, seed=0).batch(0).shape == (
        3,
        1,
        40,
    )


def test_several_folders_are_one_corpus(tmp_path: Path) -> None:
    folders = [ramp_shards(tmp_path / name) for name in ("a", "b")]
    corpus = load_corpora(folders, sample_rate=8_000)
    assert [clip.kind for clip in corpus.train] == ["a", "a", "b", "b"]
    assert [clip.kind for clip in corpus.held_out] == ["a", "b"]


def test_shards_at_another_rate_are_refused(tmp_path: Path) -> None:
    ramp_shards(tmp_path, rate=16_000)
    with pytest.raises(ValueError, match=r"are at 16000 Hz, but the model needs 24000 Hz"):
        load_corpus(tmp_path, sample_rate=24_000)


def test_shards_without_samples_are_refused(tmp_path: Path) -> None:
    stream = Stream(rate=Fraction(50), num_codebooks=1, num_tokens=8, identity="x")
    example = Example(id="x", streams={"acoustic": torch.zeros(1, 4)}, conditions={})
    write_shard(shard_path(tmp_path, "train", 0), [example], {"acoustic": stream})
    with pytest.raises(ValueError, match=r"Unknown stream 'samples'. The shards have: acoustic"):
        load_corpus(tmp_path, sample_rate=24_000)


def test_prepared_corpora_side_by_side_are_kinds_with_their_own_splits(tmp_path: Path) -> None:
    pytest.importorskip("lhotse")
    ramp_shards(tmp_path / "ramps")
    cuts = []
    for number in range(4):
        path = tmp_path / "tones" / "audio" / f"{number}.wav"
        write_audio(path, torch.full((2, 4_000), number / 10), 16_000)
        cuts.append(make_cut(str(number), path, info=audio_info(path), conditions={}))
    counts = write_cuts(tmp_path / "tones", cuts)
    corpus = load_corpus(tmp_path, sample_rate=8_000)
    tones = [clip for clip in corpus.train if clip.kind == "tones"]
    assert len(tones) == counts["train"] == 3
    assert {clip.kind for clip in corpus.held_out} == {"ramps", "tones"}
    for clip in tones:
        assert len(clip.samples) == 2_000
        level = clip.samples[500:1_500].mean() / 32768
        assert level == pytest.approx(int(clip.name) / 10, abs=0.01)


def test_a_prepared_corpus_of_bad_files_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("lhotse")
    path = tmp_path / "audio" / "x.wav"
    write_audio(path, torch.full((1, 4_000), 0.1), 8_000)
    info = audio_info(path)
    write_cuts(tmp_path, [make_cut(name, path, info=info, conditions={}) for name in "ab"])
    path.write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"No usable clip in the split 'train' of"):
        load_corpus(tmp_path, sample_rate=8_000)
    assert "skipped" in caplog.text


def test_segments_come_from_their_clips_and_kinds_by_the_root_of_their_length() -> None:
    ramp = np.arange(1, 9_001, dtype=np.int16)
    clips = [Recording(kind="up", name=str(n), samples=ramp) for n in range(9)]
    clips.append(Recording(kind="down", name="down", samples=-ramp))
    batch = SegmentSampler(clips, length=100, batch_size=600, seed=0).batch(0)[:, 0]
    assert batch.shape == (600, 100)
    steps = batch.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-6, rtol=1e-3)
    share = (steps[:, 0] < 0).float().mean().item()
    assert abs(share - 0.25) < 0.06  # roots of 9 and 1
    assert batch.abs().max() <= 0.9901


def test_a_batch_is_a_function_of_the_seed_and_its_number() -> None:
    ramp = np.arange(9_000, dtype=np.int16)
    clips = [Recording(kind="x", name="x", samples=ramp)]
    first, second = (SegmentSampler(clips, length=80, batch_size=4, seed=3) for _ in range(2))
    first.batch(0)
    assert torch.equal(first.batch(1), second.batch(1))
    assert not torch.equal(first.batch(2), second.batch(1))
    other = SegmentSampler(clips, length=80, batch_size=4, seed=4)
    assert not torch.equal(other.batch(1), second.batch(1))


def test_the_parts_of_a_batch_are_its_items() -> None:
    ramp = np.arange(9_000, dtype=np.int16)
    sampler = SegmentSampler(
        [Recording(kind="x", name="x", samples=ramp)], length=80, batch_size=5, seed=3
    )
    parts = [sampler.batch(7, part=part, num_parts=2) for part in (0, 1)]
    assert torch.equal(parts[0], sampler.batch(7)[0::2])
    assert torch.equal(parts[1], sampler.batch(7)[1::2])


def test_a_short_clip_is_filled_up() -> None:
    clips = [Recording(kind="x", name="x", samples=np.full(50, 1000, dtype=np.int16))]
    batch = SegmentSampler(clips, length=80, batch_size=4, seed=3).batch(0)
    assert (batch[:, :, :50] != 0).all()
    assert (batch[:, :, 50:] == 0).all()
