"""The command line changes a preset, and what must last is what changes the losses."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lm_audio.training.settings import LanguageModelSettings, read_settings


@dataclass(frozen=True, kw_only=True)
class Config(LanguageModelSettings):
    out: Path = Path("runs/x")
    text_dropout: float = 0.1


PRESETS = {"tiny": Config(preset="tiny", steps=5), "small": Config()}


def read(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Config:
    monkeypatch.setattr(sys, "argv", ["recipe.py", *arguments])
    return read_settings(PRESETS, description="A recipe.")


def test_the_command_line_stands_over_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "--preset", "tiny") == PRESETS["tiny"]
    found = read(monkeypatch, "--preset=tiny", "--text-dropout", "0.3", "--data", "a", "b")
    assert found == replace(PRESETS["tiny"], text_dropout=0.3, data=(Path("a"), Path("b")))
    assert read(monkeypatch, "--data", "a") == replace(PRESETS["small"], data=(Path("a"),))
    assert read(monkeypatch, "--dry-run").dry_run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "smal"], "unknown preset 'smal'; choose one of: tiny, small"),
        ([], "the preset 'small' needs data; give --data"),
    ],
)
def test_wrong_command_lines_end_with_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        read(monkeypatch, *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "lasts"),
    [
        ({"learning_rate": 0.1}, True),
        ({"seed": 1}, True),
        ({"steps": 7}, True),
        ({"text_dropout": 0.2}, True),
        ({"tokens_per_batch": 9}, True),
        ({"precision": "float32"}, True),
        ({"out": Path("elsewhere")}, False),
        ({"save_every": 1}, False),
        ({"num_workers": 3}, False),
        ({"recompute": True}, False),
    ],
)
def test_what_changes_the_losses_must_last(changes: dict[str, object], lasts: bool) -> None:
    changed = replace(PRESETS["small"], **changes)  # type: ignore[arg-type]
    assert (changed.lasting(4) != PRESETS["small"].lasting(4)) == lasts


def test_more_processes_may_go_on_with_less_accumulation() -> None:
    one = replace(PRESETS["small"], accumulation=4)
    assert one.lasting(4) == PRESETS["small"].lasting(4)
    assert one.lasting(4) != one.lasting(8)
