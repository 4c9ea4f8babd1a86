"""Folders of clips, with and without what is known of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from audio_tokenizers.audio_files import audio_info
from lm_audio.data.manifest import make_cut, write_cuts
from lm_audio.evaluation.clips import ClipFile, pair_clips, read_clips, write_clips

WriteNoise = Callable[..., Path]


def test_folders_are_labels_and_equal_names_are_pairs(
    write_noise: WriteNoise, tmp_path: Path
) -> None:
    for name in ("real/rain/a.wav", "real/dog/b.wav", "made/rain/a.flac", "made/rain/c.wav"):
        write_noise(name)
    real, made = read_clips(tmp_path / "real"), read_clips(tmp_path / "made")
    assert [(clip.name, clip.label) for clip in real] == [("dog/b", "dog"), ("rain/a", "rain")]
    pairs = pair_clips(made, real)
    assert [(a.path.suffix, b.path.suffix) for a, b in pairs] == [(".flac", ".wav")]


def test_what_is_written_of_clips_is_read_again(write_noise: WriteNoise, tmp_path: Path) -> None:
    clip = ClipFile(name="a/b", path=write_noise("a/b.wav"), text="rain", speaker="7")
    write_clips(tmp_path, [clip])
    (read,) = read_clips(tmp_path)
    assert read == clip
    assert read.audio(8000).samples.shape == (1, 8000)


def test_most_clips_are_spread_over_the_folder(write_noise: WriteNoise, tmp_path: Path) -> None:
    for number in range(6):
        write_noise(f"{number}.wav", seconds=0.1)
    assert [clip.name for clip in read_clips(tmp_path, most=3)] == ["0", "2", "4"]


def test_a_prepared_corpus_gives_its_held_out_clips(
    write_noise: WriteNoise, tmp_path: Path
) -> None:
    pytest.importorskip("lhotse")
    cuts = []
    for number in range(4):
        path = write_noise(f"audio/{number}.wav", seed=number)
        known = {"text": ["rain", "it rains"], "label": "rain", "tempo": 90.0}
        cuts.append(make_cut(str(number), path, info=audio_info(path), conditions=known))
    write_cuts(tmp_path, cuts, held_out=0.25)
    clips = read_clips(tmp_path)
    assert 1 <= len(clips) < 4
    assert {(clip.text, clip.label) for clip in clips} == {("rain", "rain")}
    assert clips[0].audio().samples.shape == (1, 16_000)


def test_mistakes_in_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No audio files found in"):
        read_clips(tmp_path)
    (tmp_path / "clips.jsonl").write_text(json.dumps({"audio": "a.wav"}) + "\n{}\n")
    with pytest.raises(ValueError, match=r"Line 2 of .*clips.jsonl must be a JSON object with"):
        read_clips(tmp_path)
