"""The recipe of effects: the same seed gives the same bytes, a stopped run goes on, names tell."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile

from lm_audio.data.manifest import conditions_of, read_cut_audio, read_cuts

LoadRecipe = Callable[[str], ModuleType]


def prepare(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    settings = {"hours": 0.007, "sample_rate": 8_000, "num_workers": 1, **changes}
    return recipe.main(recipe.Config(out=out, **settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_corpus_has_sound_captions_and_licences(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    counts = prepare(load_recipe("default_model/prepare_effects"), tmp_path)
    cuts = [*read_cuts(tmp_path, "train"), *read_cuts(tmp_path, "held_out")]
    assert counts["train"] + counts["held_out"] == len(cuts) == 4
    assert 25.2 <= sum(cut.duration for cut in cuts) < 35
    for cut in cuts:
        conditions = conditions_of(cut)
        assert len(set(conditions["text"])) >= 3
        assert conditions["label"] in cut.id.replace("_", " ")
        assert read_cut_audio(cut).samples.abs().max() > 0.01
    assert "| effects | made by a program | CC0-1.0 |" in (tmp_path / "LICENCES.md").read_text()


def test_unseen_captions_are_of_clips_held_out(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    prepare(load_recipe("default_model/prepare_effects"), tmp_path)
    lines = (tmp_path / "unseen_captions.jsonl").read_text().splitlines()
    unseen = {row["id"]: row["captions"] for row in map(json.loads, lines)}
    held_out = {cut.id: conditions_of(cut)["text"] for cut in read_cuts(tmp_path, "held_out")}
    assert set(unseen) == set(held_out)
    assert not any(set(unseen[name]) & set(held_out[name]) for name in unseen)


def test_a_run_with_broken_files_and_two_processes_ends_with_the_same_bytes(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/prepare_effects")
    prepare(recipe, tmp_path / "one")
    prepare(recipe, tmp_path / "two", hours=0.003)
    first, second, *_ = sorted((tmp_path / "two/audio").iterdir())
    first.write_bytes(first.read_bytes()[:1000])
    kept = second.stat().st_mtime_ns
    prepare(recipe, tmp_path / "two", num_workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert second.stat().st_mtime_ns == kept


def test_samples_are_called_by_their_names(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    for name in ("elec_blip", "elec_blip2", "drum_cymbal_open", "loop_tabla"):
        samples = np.sin(np.arange(22_050) / 5)
        soundfile.write(tmp_path / f"sounds/{name}.wav", samples, 22_050)
    recipe = load_recipe("default_model/prepare_effects")
    prepare(recipe, tmp_path / "out", hours=0.001, samples=tmp_path / "sounds", held_out=0)
    labels = {cut.id: conditions_of(cut)["label"] for cut in read_cuts(tmp_path / "out", "train")}
    assert labels.pop("000000-siren") == "siren"
    assert labels == {
        "sample-elec_blip": "electronic blip",
        "sample-elec_blip2": "electronic blip",
        "sample-drum_cymbal_open": "drum cymbal open",
        "sample-loop_tabla": "tabla loop",
    }
    assert "| samples of sounds |" in (tmp_path / "out/LICENCES.md").read_text()


def test_another_seed_is_not_mixed_into_a_folder(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_effects")
    prepare(recipe, tmp_path, hours=0.001)
    with pytest.raises(ValueError, match=r"was made with .*; choose another --out"):
        prepare(recipe, tmp_path, hours=0.001, seed=1)


def test_mistakes_are_told(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_effects")
    with pytest.raises(ValueError, match="--hours must be above 0, got 0"):
        prepare(recipe, tmp_path, hours=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="No audio files found in"):
        prepare(recipe, tmp_path / "out", hours=0.001, samples=tmp_path / "empty")
