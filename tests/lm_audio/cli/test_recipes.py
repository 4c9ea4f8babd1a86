"""recipes list and recipes copy: copies equal the repository's recipes, and run where they are."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lm_audio.cli import main, recipes

RECIPES = Path(__file__).parents[3] / "recipes"
Fails = Callable[[list[str]], str]


def python_files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.py")}


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_all_recipes_are_listed_with_what_they_make(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "list"])
    lines = capsys.readouterr().out.splitlines()
    own = RECIPES / "default_model"
    assert [line.split()[0] for line in lines] == [
        *sorted(path.name for path in RECIPES.iterdir() if path.is_file()),
        *sorted(f"default_model/{path.name}" for path in own.iterdir() if path.is_file()),
    ]
    assert any(line.startswith("train_codec.py    ") and "frame codec" in line for line in lines)
    assert any(line.split()[1:4] == ["Makes", "a", "corpus"] for line in lines)
    assert not any(word in line for line in lines for word in ("accelerate launch", "python "))


@pytest.mark.parametrize("name", ["train_codec", "train_codec.py"])
def test_a_copy_is_the_recipe_and_runs_where_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_with: Fails
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", name])
    copy = tmp_path / "train_codec.py"
    assert copy.read_bytes() == (RECIPES / "train_codec.py").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["train_codec.py"]
    copy.write_text("# mine")
    assert "exists. Choose another name with -o" in fails_with(["recipes", "copy", name])
    assert copy.read_text() == "# mine"
    main(["recipes", "copy", name, "-o", "other.py"])
    assert "--learning-rate" in run("other.py", "--help")


def test_a_stage_is_trained_by_a_copy_with_its_builders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", "train_stage"])
    assert {path.name for path in tmp_path.iterdir()} == {"train_stage.py", "stage_builders"}
    assert python_files(tmp_path / "stage_builders") == python_files(RECIPES / "stage_builders")
    assert "--semantic-dropout" in run("train_stage.py", "--stage", "acoustic", "--help")


def test_a_recipe_brings_the_packages_that_it_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lhotse")
    monkeypatch.chdir(tmp_path)
    main(["recipes", "copy", "default_model/prepare_effects", "-o", "mine.py"])
    assert {path.name for path in tmp_path.iterdir()} == {"mine.py", "corpora"}
    assert python_files(tmp_path / "corpora") == python_files(RECIPES / "default_model/corpora")
    run("mine.py", "--preset", "tiny", "--hours", "0.001", "--out", "effects")
    assert (tmp_path / "effects/train.jsonl.gz").is_file()
    edited = tmp_path / "corpora/captions.py"
    edited.write_text("# mine")
    capsys.readouterr()
    main(["recipes", "copy", "default_model/prepare_music.py"])
    assert "corpora/: exists, not copied" in capsys.readouterr().out
    assert edited.read_text() == "# mine"


def test_a_folder_of_recipes_is_copied_from_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_with: Fails
) -> None:
    package = tmp_path / "site-packages/lm_audio/recipes"  # as the wheel lays them out
    shutil.copytree(RECIPES, package)
    monkeypatch.setattr(recipes, "PLACES", (package, tmp_path / "site-packages/recipes"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["recipes", "copy", "default_model"])
    copy = tmp_path / "here/default_model"
    assert python_files(copy) == python_files(RECIPES / "default_model")
    assert (copy / "train.sh").is_file()
    assert not list(copy.rglob("__pycache__"))
    assert "--clips-per-class" in run("default_model/evaluate.py", "--help")
    assert "exists. Choose another name" in fails_with(["recipes", "copy", "default_model/"])


def test_a_recipe_that_is_none_gets_the_list(fails_with: Fails) -> None:
    message = fails_with(["recipes", "copy", "../setup"])
    assert "Unknown recipe '../setup'. Choose one of: enhance_prompts.py, evaluate.py" in message
    assert message.rstrip().endswith("default_model/train.sh, default_model.")


@pytest.mark.parametrize("name", ["train_semantic", "train_text_to_audio.py"])
def test_the_old_name_of_a_recipe_leads_to_the_new_one(name: str, fails_with: Fails) -> None:
    message = f"The recipe {name} was renamed to train_stage.py; copy train_stage."
    assert message in fails_with(["recipes", "copy", name])
