"""A command line that fails in one line."""

from collections.abc import Callable

import pytest

from lm_audio.cli import main


@pytest.fixture
def fails_with(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs arguments that must fail with status 2, and gives the one line that is shown."""

    def run(arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        shown = capsys.readouterr().err
        assert shown.startswith("lm-audio: ")
        assert shown.count("\n") == 1
        return shown

    return run
