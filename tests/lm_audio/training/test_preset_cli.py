"""Settings on the command line stand over those of the preset."""

import sys
from dataclasses import dataclass

import pytest

from lm_audio.training.preset_cli import read_preset


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: str = "small"
    steps: int = 1000
    width: int = 64


PRESETS = {"small": Config(), "tiny": Config(preset="tiny", steps=10, width=8)}


def read(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Config:
    monkeypatch.setattr(sys, "argv", ["recipe.py", *arguments])
    return read_preset(PRESETS, description="")


def test_small_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch) == PRESETS["small"]


def test_settings_stand_over_those_of_the_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(monkeypatch, "--width", "16", "--preset", "tiny")
    assert found == Config(preset="tiny", steps=10, width=16)
    assert read(monkeypatch, "--preset=tiny").steps == 10


def test_an_unknown_preset_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read(monkeypatch, "--preset", "large")
    assert caught.value.code == 2
    assert "unknown preset 'large'; choose one of: small, tiny" in capsys.readouterr().err
