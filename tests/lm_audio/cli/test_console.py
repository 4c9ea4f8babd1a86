"""What is printed beside results: bars, warnings, and the last line of a run."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from lm_audio.cli import console
from lm_audio.cli.console import progress_bar, share_bar, show_warnings


def test_a_reader_that_ends_early_is_not_a_mistake() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lm_audio", "models"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    return found


def test_a_bar_that_has_not_begun_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    with share_bar("making"):
        pass
    assert terminal.getvalue() == ""


def test_a_bar_that_is_broken_off_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)

    def fail() -> None:
        with share_bar("making") as progress:
            progress(0.5)
            raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert "making:" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()


def test_bars_are_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    log = io.StringIO()
    for stream, quiet in ((terminal, False), (log, False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with share_bar("making", quiet=quiet) as share, progress_bar("p", 30, quiet=quiet) as add:
            share(0.5)
            add(3.0)
        assert ("making:" in stream.getvalue()) == (stream is terminal)
        assert ("p:" in stream.getvalue()) == (stream is terminal)


def test_a_warning_gets_a_line_of_its_own_above_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    show_warnings()
    with warnings.catch_warnings(), share_bar("making") as progress:
        warnings.simplefilter("always")
        warnings.showwarning = console._show_warning
        progress(0.5)
        warnings.warn("It is loud.", stacklevel=1)
        progress(1.0)
    lines = [line.rpartition("\r")[2] for line in terminal.getvalue().split("\n")]
    assert "lm-audio: warning: It is loud." in lines


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("delay", [0.08, 0.15, 0.3])
def test_ctrl_c_during_imports_gets_one_line_and_status_130(delay: float, tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from lm_audio.cli import main; print(flush=True)\n"
        f"main(['generate', 'dog', '-o', '{tmp_path}/dog.wav'])"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        shown = process.stderr.read().decode()
        process.wait()
    assert process.returncode in (130, -signal.SIGINT)  # both are 130 to a shell
    assert shown == "lm-audio: interrupted; no partial files were left behind.\n"
