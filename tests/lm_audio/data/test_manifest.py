"""A prepared corpus keeps what is known of its clips, can be moved, and splits whole groups."""

import shutil
import sys
from pathlib import Path
from typing import Any

import lhotse
import pytest
import torch

from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.resampling import resample
from lm_audio.data.manifest import (
    SPLITS,
    Licence,
    choose_held_out,
    conditions_of,
    group_of,
    make_cut,
    read_cut_audio,
    read_cuts,
    write_cuts,
    write_licences,
    write_shar,
)

RATE = 8_000


def sound(seed: int, *, num_channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(num_channels, 4_000, generator=generator) - 0.5).mul(2**15).round() / 2**15


def make_cuts(folder: Path, *, num_cuts: int = 6, num_channels: int = 1, **conditions: Any) -> list:
    cuts = []
    for number in range(num_cuts):
        path = folder / "audio" / f"{number}.flac"
        write_audio(path, sound(number, num_channels=num_channels), RATE)
        info = audio_info(path)
        group = f"recording-{number // 2}"
        cuts.append(make_cut(str(number), path, info=info, conditions=conditions, group=group))
    return cuts


def test_conditions_come_back_from_a_corpus_that_was_moved(tmp_path: Path) -> None:
    conditions = {
        "text": ["a dog barks", "barking"],
        "speaker": "ann",
        "label": "dog",
        "transcript": "wuff",
        "tempo": 92.0,
        "moods": ["glad", "wild"],
    }
    write_cuts(tmp_path / "here", make_cuts(tmp_path / "here", **conditions))
    shutil.move(tmp_path / "here", tmp_path / "there")
    cuts = {cut.id: cut for cut in read_cuts(tmp_path / "there", "train")}
    assert len(cuts) == 4
    for name, cut in cuts.items():
        assert conditions_of(cut) == conditions
        assert torch.equal(read_cut_audio(cut).samples, sound(int(name)))


def test_audio_elsewhere_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cuts(tmp_path / "corpus", make_cuts(Path("sounds")), held_out=0)
    monkeypatch.chdir("/")
    cuts = read_cuts(tmp_path / "corpus", "train")
    assert [conditions_of(cut) for cut in cuts] == [{}] * 6
    assert torch.equal(read_cut_audio(cuts[0]).samples, sound(0))
    assert len(read_cuts(tmp_path / "corpus", "held_out")) == 0


def test_a_shar_gives_the_same_cuts_as_the_manifest(tmp_path: Path) -> None:
    write_cuts(tmp_path, make_cuts(tmp_path, text=["rain", "it rains"], tempo=60))
    shar = write_shar(tmp_path, cuts_per_shard=3)
    assert len(list((shar / "train").glob("recording.*.tar"))) == 2
    train, held_out = (list(read_cuts(shar, split)) for split in SPLITS)
    assert [cut.id for cut in train] == [cut.id for cut in read_cuts(tmp_path, "train")]
    assert len(held_out) == 2
    for cut in [*train, *held_out]:
        assert conditions_of(cut) == {"text": ["rain", "it rains"], "tempo": 60.0}
        assert torch.equal(read_cut_audio(cut).samples, sound(int(cut.id)))


def test_groups_stay_in_one_split_and_more_groups_move_no_other(tmp_path: Path) -> None:
    cuts = make_cuts(tmp_path)
    assert write_cuts(tmp_path, cuts) == {"train": 4, "held_out": 2}
    assert len({group_of(cut) for cut in read_cuts(tmp_path, "held_out")}) == 1

    few = choose_held_out(map(str, range(1_000)), seed=3, share=0.05)
    many = choose_held_out(map(str, range(3_000)), seed=3, share=0.05)
    assert 30 < len(few) < 70
    assert few == {group for group in many if int(group) < 1_000}
    assert few != choose_held_out(map(str, range(1_000)), seed=4, share=0.05)
    assert choose_held_out(["one"], seed=0, share=0.9) == set()
    assert len(choose_held_out(["one", "two"], seed=0, share=0.99)) == 1


def test_the_same_cuts_give_the_same_bytes(tmp_path: Path) -> None:
    cuts = make_cuts(tmp_path, text="a gong")
    write_cuts(tmp_path, cuts)
    first = (tmp_path / "train.jsonl.gz").read_bytes()
    write_cuts(tmp_path, reversed(cuts))
    assert (tmp_path / "train.jsonl.gz").read_bytes() == first


@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_piece_of_a_cut_is_read_at_any_rate(tmp_path: Path, num_channels: int) -> None:
    cut = make_cuts(tmp_path, num_cuts=1, num_channels=num_channels)[0]
    piece = read_cut_audio(cut.truncate(offset=0.1, duration=0.2), sample_rate=4_000)
    whole = resample(sound(0, num_channels=num_channels), RATE, 4_000)
    torch.testing.assert_close(piece.samples, whole[:, 400:1_200], atol=1e-5, rtol=0)
    assert read_cut_audio(cut, num_channels=1).samples.shape == (1, 4_000)


def test_cuts_that_lhotse_changed_are_read_as_lhotse_reads_them(tmp_path: Path) -> None:
    one, two = make_cuts(tmp_path, num_cuts=2)
    mixed = one.mix(two)
    audio = read_cut_audio(mixed, num_channels=2, sample_rate=16_000)
    assert audio.samples.shape == (2, 8_000)
    expected = resample(torch.from_numpy(mixed.load_audio()), RATE, 16_000)
    assert torch.equal(audio.samples, expected.expand(2, -1))
    stereo = make_cuts(tmp_path, num_cuts=1, num_channels=2)[0]
    right = stereo.with_channels([1])
    assert torch.equal(
        read_cut_audio(right).samples, read_audio(tmp_path / "audio/0.flac").samples[1:]
    )
    with pytest.raises(ValueError, match=r"num_channels must be 1 or 2, got 3"):
        read_cut_audio(stereo.perturb_volume(0.5), num_channels=3)


def test_lhotse_finds_the_corpus_sound(tmp_path: Path) -> None:
    write_cuts(tmp_path, make_cuts(tmp_path, num_channels=2, text="a gong"), held_out=0)
    lhotse.validate(read_cuts(tmp_path, "train"), read_data=True)


def test_licences_are_a_table(tmp_path: Path) -> None:
    licences = [Licence(what="a|b", author="Ann", licence="CC0", source="x.org")]
    write_licences(tmp_path, licences, note="Made by us.")
    lines = (tmp_path / "LICENCES.md").read_text().splitlines()
    assert lines[2] == "Made by us."
    assert lines[-3:] == [
        "| what | author | licence | source |",
        "| --- | --- | --- | --- |",
        r"| a\|b | Ann | CC0 | x.org |",
    ]


@pytest.mark.parametrize("value", ["", [], ["a", ""], float("nan"), None, True, {"a": 1}])
def test_a_condition_that_is_none_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=r"'label' of 0 must be text, a finite number or"):
        make_cuts(tmp_path, num_cuts=1, label=value)


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = make_cuts(tmp_path, num_cuts=1, text="a gong")[0]
    with pytest.raises(ValueError, match=r"Duplicate cut id '0'"):
        write_cuts(tmp_path, [cut, cut])
    with pytest.raises(ValueError, match=r"The held-out share must be at least 0 and below 1"):
        write_cuts(tmp_path, [cut], held_out=1.0)
    with pytest.raises(ValueError, match=r"Unknown split 'test'\. Choose one of: train, held"):
        read_cuts(tmp_path, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has neither train.jsonl.gz nor a Shar in train/"):
        read_cuts(tmp_path, "train")
    with pytest.raises(ValueError, match=r"has 'captions'. Put paraphrases into the list"):
        make_cuts(tmp_path, num_cuts=1, captions=["a gong"])
    with pytest.raises(ValueError, match=r"The cut .* has 2 supervisions, expected one"):
        conditions_of(cut.append(cut))
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ValueError, match=r"needs lhotse. Install it with: pip install 'lm-audio"):
        read_cuts(tmp_path, "train")
