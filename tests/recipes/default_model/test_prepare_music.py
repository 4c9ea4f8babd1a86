"""The recipe of music: exact captions, the same bytes for the same seed, clear mistakes."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lm_audio.data.manifest import conditions_of, read_cut_audio, read_cuts

LoadRecipe = Callable[[str], ModuleType]


def prepare(recipe: ModuleType, out: Path, **changes: Any) -> Any:
    settings = {"preset": "tiny", "hours": 0.01, "sample_rate": 8_000, "num_workers": 1, **changes}
    return recipe.main(recipe.Config(out=out, **settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_corpus_has_music_captions_and_licences(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    counts = prepare(load_recipe("default_model/prepare_music"), tmp_path)
    cuts = [*read_cuts(tmp_path, "train"), *read_cuts(tmp_path, "held_out")]
    assert counts["train"] + counts["held_out"] == len(cuts) >= 4
    assert 36 <= sum(cut.duration for cut in cuts) < 46
    for cut in cuts:
        conditions = conditions_of(cut)
        assert len(set(conditions["text"])) == 4
        assert f"{conditions['tempo']:.0f}" in conditions["text"][0]
        assert conditions["label"] == cut.id[7:].replace("_", " ")
        assert read_cut_audio(cut).samples.abs().max() > 0.05
    assert "CC0-1.0" in (tmp_path / "LICENCES.md").read_text()
    unseen = [json.loads(line) for line in (tmp_path / "unseen_captions.jsonl").open()]
    assert {row["id"] for row in unseen} == {cut.id for cut in read_cuts(tmp_path, "held_out")}


def test_the_same_seed_gives_the_same_bytes_also_when_more_is_asked_for_later(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/prepare_music")
    prepare(recipe, tmp_path / "one")
    prepare(recipe, tmp_path / "two", hours=0.004)
    prepare(recipe, tmp_path / "two", num_workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    prepare(recipe, tmp_path / "three", seed=1, hours=0.001)
    first = next((tmp_path / "three/audio").iterdir())
    assert first.read_bytes() != (tmp_path / "one/audio" / first.name).read_bytes()


def test_other_settings_are_not_mixed_into_a_folder(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/prepare_music")
    prepare(recipe, tmp_path, hours=0.001)
    with pytest.raises(ValueError, match=r"was made with .*; choose another --out"):
        prepare(recipe, tmp_path, hours=0.001, sample_rate=16_000)


def test_mistakes_are_told(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/prepare_music")
    with pytest.raises(ValueError, match="--hours must be above 0, got -1"):
        prepare(recipe, tmp_path, hours=-1)
    with pytest.raises(ValueError, match="Unknown instrument 'kazoo' for --solo"):
        prepare(recipe, tmp_path, solo="kazoo")
    with pytest.raises(
        ValueError, match=r"--shortest must be at least 2 s and at most half .* got 8 and 10"
    ):
        prepare(recipe, tmp_path, shortest=8.0)
    with pytest.raises(ValueError, match="--sample-rate must be from 8000 to 96000 Hz, got 4000"):
        prepare(recipe, tmp_path, sample_rate=4_000)
