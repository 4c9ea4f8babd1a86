"""A folder becomes a corpus: captions from where they are, what is bad is listed, never fatal."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.manifest import SPLITS, conditions_of, group_of, read_cut_audio, read_cuts

LoadRecipe = Callable[[str], ModuleType]


def make_folder(folder: Path, *names: str, num_channels: int = 1, level: float = 0.5) -> Path:
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        samples = level * (2 * torch.rand(num_channels, 2_400, generator=generator) - 1)
        write_audio(folder / name, samples, 24_000)
    return folder


def prepare(recipe: ModuleType, folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """All cuts of the corpus, by name."""
    recipe.main(recipe.Config(data=folder, out=out, num_workers=2, **settings))
    return {cut.id: cut for split in SPLITS for cut in read_cuts(out, split)}


def skipped(out: Path) -> dict[str, str]:
    lines = (out / "skipped.txt").read_text().splitlines()
    return dict(line.split("\t") for line in lines)


def test_the_tiny_preset_makes_its_own_sounds(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("prepare_folder")
    counts = recipe.main(recipe.Config(preset="tiny", out=tmp_path, num_workers=2))
    assert counts["train"] + counts["held_out"] == 12
    captions = {conditions_of(cut)["text"][0] for cut in read_cuts(tmp_path, "train")}
    assert captions == {"chirp", "pluck", "rain"}
    assert "| sounds |" in (tmp_path / "LICENCES.md").read_text()


def test_files_that_a_table_lacks_are_counted_with_the_remedy(
    load_recipe: LoadRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = make_folder(tmp_path / "sounds", "dog.wav", "cat.wav", "cow.wav")
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\ndog.wav,a dog\n")
    out = tmp_path / "corpus"
    prepare(load_recipe("prepare_folder"), sounds, out, captions=table)
    shown = capsys.readouterr().out
    assert f"{out}: 1 clip, 0.00 h, 0 of them held out.\n" in shown
    assert f"Skipped 2; see {out}/skipped.txt for the reasons.\n" in shown
    assert f"2 of these are not in {table}; pass --uncaptioned name" in shown
    assert "Nothing is held out, since all clips are in one group." in shown
    prepare(load_recipe("prepare_folder"), sounds, out, captions=table, uncaptioned="name")
    shown = capsys.readouterr().out
    assert f"{out}: 3 clips, 0.00 h, 1 of them held out.\n" in shown
    assert "Skipped" not in shown
    assert "Nothing is held out" not in shown


def test_names_are_captions_and_bad_files_are_listed(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    sounds = make_folder(tmp_path / "sounds", "dog_bark-03.wav", "Cat/1-17092-A.flac", "x/y.v2.ogg")
    make_folder(sounds, "silent.wav", level=0.0)
    make_folder(sounds, "stereo.mp3", num_channels=2)
    make_folder(sounds, "12/34.wav")
    (sounds / "broken.wav").write_bytes(b"RIFF")
    (sounds / "song.m4a").write_bytes(b"no audio")
    (sounds / "._hidden.wav").write_bytes(b"")
    (sounds / "x" / "y.v2.txt").write_text("a gong\n\n  a gong rings \n")
    out = sounds / "corpus"
    cuts = prepare(load_recipe("prepare_folder"), sounds, out, shar=True, copy=True)
    assert {name: conditions_of(cut)["text"] for name, cut in cuts.items()} == {
        "dog_bark-03.wav": ["dog bark"],
        "Cat/1-17092-A.flac": ["cat"],
        "x/y.v2.ogg": ["a gong", "a gong rings"],
        "stereo.mp3": ["stereo"],
    }
    reasons = skipped(out)
    assert reasons["silent.wav"] == "silent"
    assert reasons["12/34.wav"] == "no caption"
    assert "broken.wav" in reasons["broken.wav"]
    assert "song.m4a" in reasons["song.m4a"]
    assert len(reasons) == 4
    # The copies below are not taken for new sounds, and the Shar holds the same ones.
    assert prepare(load_recipe("prepare_folder"), sounds, out).keys() == cuts.keys()
    shar = {cut.id: cut for split in SPLITS for cut in read_cuts(out / "shar", split)}
    assert shar.keys() == cuts.keys()
    for name, cut in cuts.items():
        expected = read_cut_audio(cut).samples
        torch.testing.assert_close(read_cut_audio(shar[name]).samples, expected, atol=4e-5, rtol=0)
        assert Path(cut.recording.sources[0].source).is_relative_to(out / "audio")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_table_gives_captions_and_attributes(
    load_recipe: LoadRecipe, tmp_path: Path, kind: str
) -> None:
    sounds = make_folder(tmp_path / "sounds", "a/dog.wav", "b/dog.wav", "c/cat.wav", "d/cow.wav")
    columns = ["file", "caption", "speaker", "tempo", "group"]
    rows: list[list[Any]] = [
        ["a/dog.wav", 'a dog, "Rex", barks', "7", 92, "pets"],
        ["a/dog.wav", "barking", "8", None, None],
        ["cat", "a cat mews", None, None, "pets"],
        ["dog.wav", "which one?", None, None, None],
        ["fish", "silence", None, None, None],
    ]
    if kind == "jsonl":
        rows[2].append({"a": 1})
        columns.append("notes")
    table = tmp_path / f"captions.{kind}"
    if kind == "jsonl":
        lines = [json.dumps(dict(zip(columns, row, strict=False))) for row in rows]
        table.write_text("\n".join([*lines, "no json"]))
    else:
        cells = [["" if cell is None else str(cell) for cell in row] for row in [columns, *rows]]
        quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
        lines = [("," if kind == "csv" else "\t").join(row) for row in quoted]
        table.write_text(
            "\ufeff" + "\n".join([*lines, lines[-1] + ("\t" if kind == "tsv" else ",")])
        )
    cuts = prepare(load_recipe("prepare_folder"), sounds, tmp_path / "out", captions=table)
    assert {name: conditions_of(cut) for name, cut in cuts.items()} == {
        "a/dog.wav": {"text": ['a dog, "Rex", barks', "barking"], "speaker": "7", "tempo": 92.0},
        "c/cat.wav": {"text": ["a cat mews"]},
    }
    assert {group_of(cut) for cut in cuts.values()} == {"pets"}
    reasons = skipped(tmp_path / "out")
    first = 1 if kind == "jsonl" else 2
    assert reasons.pop(f"{table.name} line {first + 1}") == (
        "its speaker differs from an earlier row of 'a/dog.wav'"
    )
    notes = reasons.pop(f"{table.name} line {first + 2}", None)
    assert (notes is not None and "'notes' of" in notes) == (kind == "jsonl")
    assert reasons.pop(f"{table.name} line {first + 3}") == "'dog.wav' matches 2 files"
    assert reasons.pop(f"{table.name} line {first + 4}") == "'fish' matches 0 files"
    assert reasons.pop(f"{table.name} line {first + 5}") in (
        "not a JSON object",
        "more cells than the header",
    )
    assert reasons == {"b/dog.wav": "no caption", "d/cow.wav": "no caption"}


def test_files_without_captions_can_be_kept_and_grouped(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("prepare_folder")
    sounds = make_folder(tmp_path / "sounds", "a/1-A.wav", "a/1-B.wav", "a/2-A.wav")
    kept = prepare(recipe, sounds, tmp_path / "out", uncaptioned="keep", group="name")
    assert [conditions_of(cut) for cut in kept.values()] == [{}, {}, {}]
    assert {name: group_of(cut) for name, cut in kept.items()} == {
        "a/1-A.wav": "a/1",
        "a/1-B.wav": "a/1",
        "a/2-A.wav": "a/2",
    }
    by_folder = prepare(recipe, sounds, tmp_path / "out", uncaptioned="keep", group="folder")
    assert {group_of(cut) for cut in by_folder.values()} == {"a"}


def test_mistakes_are_told(
    load_recipe: LoadRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("prepare_folder")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"nowhere is not a folder; pass a folder of audio"):
        prepare(recipe, tmp_path / "nowhere", out)
    with pytest.raises(ValueError, match=r"No audio files found in"):
        prepare(recipe, tmp_path, out)
    sounds = make_folder(tmp_path / "sounds", "0.wav")
    with pytest.raises(ValueError, match=r"None of the 1 audio files in .* can be used; .*skip"):
        prepare(recipe, sounds, out)
    for content, message in {
        "name,caption\n0,rain\n": r"has no column 'file', only name, caption; set --file-column",
        "file,caption,text\n0,rain,x\n": r"has a column 'text' in addition to 'caption'; rename",
        "file,caption,captions\n0,a,b\n": r"has a column 'captions' in addition to 'caption'",
    }.items():
        (tmp_path / "table.csv").write_text(content)
        with pytest.raises(ValueError, match=message):
            prepare(recipe, sounds, out, captions=tmp_path / "table.csv")
    (tmp_path / "table.csv").write_bytes(b"file,caption\n0,caf\xe9\n")
    with pytest.raises(ValueError, match=r"table.csv is not UTF-8 text; save it as UTF-8"):
        prepare(recipe, sounds, out, captions=tmp_path / "table.csv")
    with pytest.raises(ValueError, match=r"no.csv does not exist; check --captions"):
        prepare(recipe, sounds, out, captions=tmp_path / "no.csv")
    with pytest.raises(ValueError, match=r"Expected a .csv, .tsv or .jsonl table, got .*table.txt"):
        prepare(recipe, sounds, out, captions=tmp_path / "table.txt")
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(ValueError, match=r"needs lhotse. Install it with: pip install 'lm-audio"):
        prepare(recipe, sounds, out)
