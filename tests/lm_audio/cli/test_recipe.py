"""A recipe's command line: presets, and one line for a mistake."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

import pytest
from safetensors import SafetensorError

from lm_audio.cli.recipe import run_recipe


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: str = "small"
    steps: int = 100


PRESETS = {"small": Config(), "tiny": Config(preset="tiny", steps=3)}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Config]:
    monkeypatch.setattr("sys.argv", ["recipes/train_x.py", *arguments])
    seen: list[Config] = []
    run_recipe(seen.append, PRESETS, description="Makes x.")
    return seen


def test_the_command_line_goes_over_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch) == [Config()]
    assert run(monkeypatch, "--preset", "tiny") == [PRESETS["tiny"]]
    assert run(monkeypatch, "--steps", "7", "--preset", "tiny") == [Config(preset="tiny", steps=7)]
    assert run(monkeypatch, "--preset=tiny") == [PRESETS["tiny"]]


def test_without_a_small_preset_the_default_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["recipes/train_x.py"])
    seen: list[Config] = []
    usual = Config(preset="default", steps=5)
    run_recipe(seen.append, {"tiny": PRESETS["tiny"], "default": usual}, description="Makes x.")
    assert seen == [usual]


@dataclass(frozen=True, kw_only=True)
class Narrow(Config):
    family: str = "one"
    stage: str = "a"


@dataclass(frozen=True, kw_only=True)
class Wide(Narrow):
    stage: str = "b"
    width: int = 8


BY_STAGE = {
    "one": {
        "a": {"tiny": Narrow(preset="tiny", steps=3), "small": Narrow()},
        "b": {"tiny": Wide(preset="tiny")},
    },
    "two": {"c": {"default": Narrow(family="two", stage="c", preset="default")}},
}


def run_by_stage(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Narrow]:
    monkeypatch.setattr("sys.argv", ["recipes/train_x.py", *arguments])
    seen: list[Narrow] = []
    run_recipe(seen.append, BY_STAGE, options=("family", "stage", "preset"), description=None)
    return seen


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Narrow()),
        (["--preset", "tiny"], Narrow(preset="tiny", steps=3)),
        (["--stage=b", "--width", "4"], Wide(preset="tiny", width=4)),
        (["--family", "two"], Narrow(family="two", stage="c", preset="default")),
        (["--family", "one", "--stage", "a", "--steps", "7"], Narrow(steps=7)),
    ],
)
def test_several_options_choose_among_settings_with_options_of_their_own(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: Narrow
) -> None:
    assert run_by_stage(monkeypatch, *arguments) == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "three"], "unknown family 'three'; choose one of: one, two."),
        (["--family", "two", "--stage", "a"], "unknown stage 'a'; choose one of: c."),
        (["--stage", "b", "--preset", "small"], "unknown preset 'small'; choose one of: tiny."),
        (["--width", "4"], "--width"),
    ],
)
def test_what_none_of_the_settings_has_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_by_stage(monkeypatch, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_preset_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--preset", "smal")
    assert stopped.value.code == 2
    expected = "train_x.py: unknown preset 'smal'; choose one of: small, tiny.\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("There is\nno data."), 2, "train_x.py: There is no data."),
        (FileNotFoundError(2, "No such file", "a.wav"), 2, "No such file: 'a.wav'"),
        (SafetensorError("I/O error: No space left"), 2, "train_x.py: I/O error: No space left"),
        (ModuleNotFoundError("X needs y; install it."), 2, "train_x.py: X needs y; install it."),
        (FloatingPointError("The loss is nan."), 1, "train_x.py: The loss is nan."),
        (
            KeyboardInterrupt(),
            130,
            "train_x.py: interrupted. Run the same command again to resume.",
        ),
    ],
)
def test_a_mistake_gets_one_line_and_a_status(
    error: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: Config) -> NoReturn:
        raise error

    monkeypatch.setattr("sys.argv", ["train_x.py"])
    with pytest.raises(SystemExit) as stopped:
        run_recipe(fail, Config, description=None)
    assert stopped.value.code == status
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_a_reader_that_has_enough_is_no_mistake(tmp_path: Path) -> None:
    script = tmp_path / "train_x.py"
    script.write_text(
        "from lm_audio.cli.recipe import run_recipe\n"
        "run_recipe(lambda _: print('x' * 10**6), {'small': 1}, description=None)\n"
    )
    command = f"{sys.executable} {script} | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("x", "")


def test_whoever_changes_a_recipe_may_see_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Config) -> NoReturn:
        raise ValueError("shapes differ")

    monkeypatch.setattr("sys.argv", ["train_x.py"])
    monkeypatch.setenv("LM_AUDIO_TRACEBACK", "1")
    with pytest.raises(ValueError, match="shapes differ"):
        run_recipe(fail, Config, description=None)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Config) -> NoReturn:
        raise KeyError("a bug")

    monkeypatch.setattr("sys.argv", ["train_x.py"])
    with pytest.raises(KeyError, match="a bug"):
        run_recipe(fail, Config, description=None)


def test_an_old_option_name_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["recipes/train_x.py", "--num-steps", "7"])
    seen: list[Config] = []
    run_recipe(seen.append, Config, description="Makes x.", renamed={"--num-steps": "--steps"})
    assert seen == [Config(steps=7)]
    expected = "train_x.py: warning: --num-steps is deprecated; use --steps.\n"
    assert capsys.readouterr().err == expected


@dataclass(frozen=True, kw_only=True)
class Readable:
    data: tuple[Path, ...] = ()
    """Folders of shards."""
    steps: int = 10
    limit: float | None = None
    """Seconds."""
    device: str | None = None
    schedule: Literal["cosine", "none"] | None = None


def test_help_shows_values_and_defaults_as_other_commands_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--help"])
    with pytest.raises(SystemExit):
        run_recipe(print, Readable, description="A recipe.")
    shown = " ".join(capsys.readouterr().out.split())
    for part in ("--data [PATH ...]", "--steps N", "(default: 10)", "--limit X", "--device TEXT"):
        assert part in shown
    assert "--schedule {cosine,none}" in shown
    assert "None" not in shown
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--limit", "None", "--steps", "3"])
    found: list[Readable] = []
    run_recipe(found.append, Readable, description="A recipe.")
    assert found == [Readable(steps=3)]
