"""ESC-10 in both layouts: captions of each class, original recordings whole, licences per clip."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.data.manifest import SPLITS, conditions_of, read_cuts

LoadRecipe = Callable[[str], ModuleType]


def all_cuts(out: Path) -> dict[str, Any]:
    return {cut.id: cut for split in SPLITS for cut in read_cuts(out, split)}


def test_the_tiny_preset_makes_noises_and_keeps_recordings_whole(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("prepare_esc10")
    counts = recipe.main(recipe.Config(preset="tiny", out=tmp_path))
    assert counts["train"] + counts["held_out"] == 30
    parts = [{cut.id[-5:-2] for cut in read_cuts(tmp_path, split)} for split in SPLITS]
    assert parts[0] | parts[1] == {"100", "200"}
    assert not parts[0] & parts[1]
    texts = [conditions_of(cut)["text"] for cut in all_cuts(tmp_path).values()]
    assert len({text[0] for text in texts}) > 20
    first = (tmp_path / "train.jsonl.gz").read_bytes()
    recipe.main(recipe.Config(preset="tiny", out=tmp_path))
    assert (tmp_path / "train.jsonl.gz").read_bytes() == first


def test_each_class_has_many_wordings_and_others_that_no_clip_has(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("prepare_esc10")
    recipe.main(recipe.Config(preset="tiny", out=tmp_path))
    seen: dict[str, set[str]] = {}
    for cut in all_cuts(tmp_path).values():
        conditions = conditions_of(cut)
        seen.setdefault(conditions["label"], set()).update(conditions["text"])
    assert len(seen) == 10
    assert all(len(texts) >= 12 for texts in seen.values())
    everything = [text for texts in seen.values() for text in texts]
    assert len(set(everything)) == len(everything)
    rows = [json.loads(x) for x in (tmp_path / "unseen_captions.jsonl").read_text().splitlines()]
    assert {row["label"] for row in rows} == seen.keys()
    assert len(rows) >= 30
    assert not {row["text"] for row in rows} & set(everything)


@pytest.mark.parametrize("layout", ["ESC-50", "ESC-10"])
def test_both_layouts_are_read(load_recipe: LoadRecipe, tmp_path: Path, layout: str) -> None:
    data, noise = tmp_path / "data", torch.linspace(-0.5, 0.5, 800)
    if layout == "ESC-50":
        for name in ("1-17-A.wav", "3-18-B.wav", "2-19-A.wav"):
            write_audio(data / "audio" / name, noise, 8_000)
        (data / "meta").mkdir()
        (data / "meta" / "esc50.csv").write_text(
            "filename,fold,target,category,esc10,src_file,take\n"
            "1-17-A.wav,1,0,dog,True,17,A\n"
            "3-18-B.wav,3,20,crying_baby,True,18,B\n"
            "2-19-A.wav,2,2,pig,False,19,A\n"
        )
        (data / "LICENSE").write_text(
            "- [1-17-A.ogg]: clip derived from dog (near).wav "
            "(http://x.org/17/) by Ann B. [CC-BY]\n"
        )
    else:
        write_audio(data / "001 - Dog bark" / "1-17-A.ogg", noise, 8_000)
        write_audio(data / "baby_cry" / "3-18-B.wav", noise, 8_000)
        write_audio(data / "pig" / "2-19-A.wav", noise, 8_000)
        (data / "README.md").write_text(
            "- **[1-17-A.ogg](http://y.org/1-17-A.ogg)**:   clip derived from "
            "[dog (near).wav](http://x.org/17/) by *Ann B.* ([CC-BY](http://z.org/))\n"
        )
    recipe = load_recipe("prepare_esc10")
    recipe.main(recipe.Config(data=data, out=tmp_path / "out"))
    assert {cut.id: conditions_of(cut)["label"] for cut in all_cuts(tmp_path / "out").values()} == {
        "dog_bark/1-17-A": "dog bark",
        "baby_cry/3-18-B": "baby cry",
    }
    licences = (tmp_path / "out" / "LICENCES.md").read_text()
    assert "| 1-17-A, from dog (near).wav | Ann B. | CC-BY | http://x.org/17/ |" in licences
    assert "| 3-18-B |  | see the data set |  |" in licences

    recipe.main(recipe.Config(data=data, out=tmp_path / "out", folds=(3, 4)))
    assert list(all_cuts(tmp_path / "out")) == ["baby_cry/3-18-B"]
    recipe.main(recipe.Config(data=data, out=tmp_path / "out", licences=("CC0", "CC-BY")))
    assert list(all_cuts(tmp_path / "out")) == ["dog_bark/1-17-A"]
    with pytest.raises(ValueError, match=r"has no ESC-10 clips in folds \(5,\) with licences"):
        recipe.main(recipe.Config(data=data, out=tmp_path / "out", folds=(5,)))
