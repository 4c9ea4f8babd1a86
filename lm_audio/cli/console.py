"""What is printed beside results: progress, warnings and the reasons of errors."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# tqdm is imported where it runs: it takes a third of the time of --help.

LONG_SECONDS = 20.0  # shorter audio gets no progress bar


@contextmanager
def progress_bar(
    what: str, seconds: float, *, quiet: bool = False
) -> Iterator[Callable[[float], None]]:
    """Shows progress in seconds of audio on a terminal, for audio of at least `LONG_SECONDS`."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    hidden = True if quiet or seconds < LONG_SECONDS else None  # None: unless on a terminal
    with tqdm(total=round(seconds, 1), desc=what, bar_format=layout, disable=hidden) as bar:
        yield lambda done: bar.update(min(done, bar.total - bar.n)) and None


@contextmanager
def share_bar(what: str, *, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Shows progress from 0 to 1 and the time left on a terminal, from the first call on."""
    from tqdm import tqdm

    layout = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    bar: Any = None

    def show(share: float) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=1.0, desc=what, bar_format=layout, disable=True if quiet else None)
        bar.update(max(0.0, min(share, 1.0) - bar.n))

    try:
        yield show
    except BaseException:
        if bar is not None:
            bar.leave = False  # the error takes its line
        raise
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def waiting_for(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Shows a line on a terminal until the block ends."""
    from tqdm import tqdm

    hidden = True if quiet else None
    with tqdm(desc=f"loading {what}", bar_format="{desc}", leave=False, disable=hidden):
        yield


def say(line: str, file: TextIO) -> None:
    """Prints a line, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=file)


def in_words(number: int) -> str:
    """A rounded count: 16.4 million."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)


def counted(number: int, noun: str) -> str:
    """A count with its noun: 1 clip, 2 clips."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def reason(error: Exception) -> str:
    """The message of an error; of the system's, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        problem = error.strerror[0].lower() + error.strerror[1:]
        return f"{error.filename}: {problem}." if error.filename else f"{error.strerror}."
    return str(error)


def quiet_libraries() -> None:
    """Turns off progress bars and hints of other libraries; call it before they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.CRITICAL)


def show_warnings() -> None:
    """Prints warnings and log records on lines of their own, above a progress bar."""
    warnings.showwarning = _show_warning
    logging.basicConfig(
        format="lm-audio: warning: %(message)s", level=logging.WARNING, handlers=[_Lines()]
    )


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    say(f"lm-audio: warning: {message}", sys.stderr)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), sys.stderr)
