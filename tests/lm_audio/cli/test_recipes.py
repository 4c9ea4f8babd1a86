"""recipes list and recipes copy: what is handed out is what the repository has."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_audio.cli import main

RECIPES = Path(__file__).parents[3] / "recipes"
Fails = Callable[[list[str]], str]


def test_all_recipes_are_listed_with_what_they_make(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        path.name for path in RECIPES.iterdir() if path.is_file()
    )
    assert any(line.startswith("train_codec.py    ") and "frame codec" in line for line in lines)


@pytest.mark.parametrize("name", ["train_stage", "train_stage.py"])
def test_a_copy_is_the_recipe_and_runs_where_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_with: Fails
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", name])
    copy = tmp_path / "train_stage.py"
    assert copy.read_bytes() == (RECIPES / "train_stage.py").read_bytes()
    copy.write_text("# mine")
    assert "is there already; name another file with -o" in fails_with(["recipes", "copy", name])
    assert copy.read_text() == "# mine"
    main(["recipes", "copy", name, "-o", "other.py"])
    shown = subprocess.run(
        [sys.executable, "other.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--learning-rate" in shown.stdout


def test_a_recipe_that_is_none_gets_the_list(fails_with: Fails) -> None:
    told = fails_with(["recipes", "copy", "../setup"])
    assert "There is no recipe '../setup'; choose one of: assemble_default.py, evaluate.py" in told


@pytest.mark.parametrize("name", ["train_semantic", "train_text_to_audio.py"])
def test_the_old_name_of_a_recipe_leads_to_the_new_one(name: str, fails_with: Fails) -> None:
    message = f"The recipe {name} is now train_stage.py; copy train_stage instead."
    assert message in fails_with(["recipes", "copy", name])
