"""The evaluation of the default model: it measures all it can and generates no clip twice."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lm_audio.pipeline import AudioPipeline

pytest.importorskip("lhotse")
LoadRecipe = Callable[[str], ModuleType]


def read(out: Path) -> dict[str, Any]:
    rows = json.loads((out / "report.json").read_text())["measurements"]
    return {row["measurement"]["metric"]: row for row in rows}


@pytest.fixture(scope="module")
def measured(load_recipe: LoadRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the tiny preset, without the speed, which no test can know."""
    recipe = load_recipe("default_model/evaluate")
    out = tmp_path_factory.mktemp("report")
    groups = tuple(group for group in recipe.GROUPS if group != "speed")
    recipe.main(recipe.Config(preset="tiny", only=groups, out=out))
    return out


def test_all_groups_are_measured_and_what_is_lacking_is_said(measured: Path) -> None:
    found = read(measured)
    values = {name: row["measurement"]["value"] for name, row in found.items()}
    for name in (
        "original: sound class accuracy",
        "text adherence, real held-out clips",
        "3 instruments, real held-out renders",
        "speech continuation: speaker identified, real",
    ):
        assert values[name] == 1.0, name  # made-up sounds of three kinds are easy to tell apart
    assert values["Frechet distance to held-out clips, over that of two real halves"] > 1
    assert values["real piano: chroma and tempo of the own prompt rather than another's"] > 0.5
    assert values["windows of 1 s of generated clips that are in a training clip"] == 0
    adherence = found["text adherence, captions of training"]
    assert (adherence["target"], adherence["stretch"]) == (0.7, 0.9)
    assert adherence["met"] is (values["text adherence, captions of training"] >= 0.7)
    assert adherence["measurement"]["num_items"] == 6
    assert found["codec: comparison with Lyra V2"]["measurement"]["note"] == "pass --lyra"
    assert found["codec: word error rate"]["met"] is None


def test_a_second_run_makes_no_clip_again_and_keeps_other_groups(
    load_recipe: LoadRecipe, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, before = load_recipe("default_model/evaluate"), read(measured)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a clip was made again")

    monkeypatch.setattr(AudioPipeline, "generate", refuse)
    monkeypatch.setattr(AudioPipeline, "continue_from", refuse)
    recipe.main(recipe.Config(preset="tiny", only=("text", "piano"), out=measured))
    assert read(measured) == before


def test_without_corpora_and_judges_the_reasons_are_told(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/evaluate")
    groups = tuple(group for group in recipe.GROUPS if group not in ("codec", "speed"))
    recipe.main(recipe.Config(model=tmp_path / "none", out=tmp_path, only=groups))
    rows = read(tmp_path)
    notes = {name: row["measurement"]["note"] for name, row in rows.items()}
    assert notes["text"] == "no corpus; pass --esc10"
    assert notes["memorisation"] == "no training tokens; pass --shards"
    assert all(row["measurement"]["value"] is None for row in rows.values())
    assert "- piano: no corpus; pass --music" in (tmp_path / "report.md").read_text()


def test_a_folder_without_a_model_is_told_as_the_reason(
    load_recipe: LoadRecipe, tmp_path: Path
) -> None:
    recipe = load_recipe("default_model/evaluate")
    recipe.main(recipe.Config(model=tmp_path / "none", only=("speed",), out=tmp_path / "out"))
    note = read(tmp_path / "out")["speed"]["measurement"]["note"]
    assert note == f"{tmp_path / 'none'} is not a complete model; pass --model"
    recipe.main(recipe.Config(model=tmp_path / "none", only=("codec",), out=tmp_path / "out"))
    note = read(tmp_path / "out")["codec"]["measurement"]["note"]
    assert note == f"{tmp_path / 'none'} has no codec; pass --model"


def test_settings_that_make_no_sense_are_refused(load_recipe: LoadRecipe, tmp_path: Path) -> None:
    recipe = load_recipe("default_model/evaluate")
    config = recipe.Config(out=tmp_path, clips_per_class=1)
    with pytest.raises(ValueError, match="--clips-per-class must be at least 2, got 1"):
        recipe.main(config)
    with pytest.raises(ValueError, match="--preset tiny uses a random model; remove --model"):
        recipe.main(replace(config, preset="tiny", model=tmp_path))


def test_the_document_tells_how_each_group_is_measured(load_recipe: LoadRecipe) -> None:
    text = (Path(__file__).parents[3] / "docs/evaluation.md").read_text()
    section = text.split("## Targets of the bundled model")[1]
    named = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert named == list(load_recipe("default_model/evaluate").GROUPS)
