"""What is shown beside results: progress, warnings, and mistakes on the command line itself."""

import io
import itertools
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro
from tqdm import tqdm

LONG_SECONDS = 20.0  # audio of this length gets a progress bar
_FRAME = "│╭╮╰╯─ "
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def parse(verbs: Mapping[str, type], arguments: list[str], *, description: str) -> Any:
    """The verb that the arguments ask for; raises ValueError with one sentence on a mistake."""
    first = arguments[0] if arguments else ""
    if first not in verbs and not first.startswith("-"):
        got = f"Unknown verb {first!r}." if arguments else "Got no verb."
        raise ValueError(f"{got} Choose one of: {', '.join(verbs)}; see lm-audio --help.")
    choices: Any = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in verbs.items()]
    shown = io.StringIO()
    try:
        with redirect_stderr(shown):
            return tyro.cli(
                reduce(or_, choices), args=arguments, prog="lm-audio", description=description
            )
    except SystemExit as stopped:
        if not stopped.code:  # --help
            raise
    verb = f"{first} " if first in verbs else ""
    raise ValueError(f"{_sentence(shown.getvalue())}; see lm-audio {verb}--help.")


def _sentence(box: str) -> str:
    """What tyro says in a box, without its title and the hints below the next line across."""
    lines = [line.strip(_FRAME) for line in _COLOUR.sub("", box).splitlines()[1:]]
    below_title = itertools.dropwhile(_is_rule, lines)
    said = itertools.takewhile(lambda line: not _is_rule(line), below_title)
    return " ".join(" ".join(said).split()).rstrip(".")


def _is_rule(line: str) -> bool:
    """Whether a line without its frame is one across; without Unicode those are of hyphens."""
    return not line.strip("-")


@contextmanager
def progress_bar(what: str, seconds: float) -> Iterator[Callable[[float], None]]:
    """Shows progress on stderr in seconds of audio, for audio long enough to wait for."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(
        total=round(seconds, 1), desc=what, bar_format=layout, disable=seconds < LONG_SECONDS
    ) as bar:
        yield lambda done: bar.update(min(done, bar.total - bar.n)) and None


@contextmanager
def share_bar(what: str) -> Iterator[Callable[[float], None]]:
    """Shows the share that is done, from 0 to 1, and the time that is left, once there is any."""
    layout = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    bar: Any = None

    def show(share: float) -> None:
        nonlocal bar
        bar = bar or tqdm(total=1.0, desc=what, bar_format=layout)
        bar.update(max(0.0, min(share, 1.0) - bar.n))

    try:
        yield show
    except BaseException:
        if bar is not None:
            bar.leave = False  # one line is left for what went wrong
        raise
    finally:
        if bar is not None:
            bar.close()


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Says on a terminal what takes a while, until it is done."""
    with tqdm(desc=f"loading {what}", bar_format="{desc}", leave=False, disable=None):
        yield


def in_words(number: int) -> str:
    """A count, rounded as people say it."""
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return str(number)


def quiet_libraries() -> None:
    """Keeps bars, hints and retries of other libraries off the screen."""
    from transformers.utils import logging as found

    transformers_logging: Any = found  # it is untyped
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub.utils._http").setLevel(logging.CRITICAL)


def show_warnings() -> None:
    """Shows warnings of this package as lines of their own."""
    warnings.showwarning = _show_warning
    logging.basicConfig(format="lm-audio: warning: %(message)s", level=logging.WARNING)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"lm-audio: warning: {message}", file=sys.stderr)
