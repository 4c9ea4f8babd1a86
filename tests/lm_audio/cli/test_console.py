"""Mistakes on the command line itself: one line, whatever tyro draws."""

import io
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from lm_audio.cli import VERBS, main
from lm_audio.cli.console import share_bar

Fails = Callable[[list[str]], str]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Got no verb. Choose one of: generate, continue, inpaint, models, info, encode"),
        (["make"], "Unknown verb 'make'. Choose one of: generate, "),
        (["--quick"], "Unrecognized options: --quick; see lm-audio --help."),
        (["generate", "a", "--quick"], "--quick; see lm-audio generate --help."),
        (["generate", "a", "b"], "Unrecognized options: b; see lm-audio generate --help."),
        (["generate", "--duration", "long"], "Error parsing --duration: could not convert"),
        (["generate", "--duration"], "Missing value for argument '--duration'"),
        (["generate", "--top-k", "2.5"], "Error parsing --top-k"),
        (["continue"], "Missing from lm-audio continue: "),
        (["inpaint", "a.wav", "--start", "1"], "Missing from lm-audio inpaint: "),
        (["info", "a", "b"], "Unrecognized options: b; see lm-audio info --help."),
    ],
)
@pytest.mark.parametrize("width", ["40", "120"])
def test_a_wrong_command_gets_one_line(
    arguments: list[str],
    message: str,
    width: str,
    fails_with: Fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    shown = fails_with(arguments)
    assert message in shown
    assert not set(shown) & set("│─╭╰")
    assert "---" not in shown


def test_lines_are_drawn_with_unicode_or_without(
    fails_with: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
        shown.append(fails_with(["generate", "--quick"]))
    assert shown[0] == shown[1]


def test_help_of_every_verb_is_not_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit) as stopped:
            main([verb, "--help"])
        assert not stopped.value.code
        assert f"usage: lm-audio {verb}" in capsys.readouterr().out


def test_a_reader_that_has_enough_is_not_a_mistake() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lm_audio", "models"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_bar_that_has_not_begun_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with share_bar("making"):
        pass
    assert capsys.readouterr().err == ""


def test_a_bar_that_is_broken_off_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with share_bar("making") as progress:
            progress(0.5)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    shown = capsys.readouterr().err
    assert "making:" in shown
    assert "\n" not in shown
