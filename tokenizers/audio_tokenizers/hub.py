"""Access to the Hugging Face hub: paths are never looked up there, and timeouts are short."""

import functools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TRIES = 2
TIMEOUT = 2.0  # seconds, for each try

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATH_PREFIXES = ("/", "./", "../", "~", "runs/", "\\")


def is_path(source: str | Path) -> bool:
    """Whether a name can only be a path: by its prefix, or because its parent exists."""
    text = str(source)
    first, slash, _ = text.partition("/")
    return text.startswith(_PATH_PREFIXES) or (bool(slash) and Path(first).is_dir())


def is_hub_id(source: str | Path) -> bool:
    """Whether a name has the form of a repository id and is not a path."""
    return _HUB_ID.fullmatch(str(source)) is not None and not is_path(source)


@contextmanager
def hub_access(source: str | Path) -> Iterator[None]:
    """Allows hub requests for `source` inside the block; uses only the cache if it is unreachable.

    Raises ValueError for a path that does not exist. Does nothing for a local source.
    """
    if Path(source).exists():
        yield
        return
    if is_path(source):
        raise ValueError(f"No such file or folder: {source}")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or is_reachable():
        yield
        return
    constants.HF_HUB_OFFLINE = True  # otherwise each request retries for half a minute
    _forget_sessions()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False
        _forget_sessions()


def _forget_sessions() -> None:
    """Before version 1 of huggingface_hub, a session stays as offline as it was created."""
    from huggingface_hub import utils

    if reset := getattr(utils, "reset_sessions", None):
        reset()


def is_reachable() -> bool:
    """Whether the hub answers within seconds; checked once per process."""
    from huggingface_hub import constants

    return _is_reachable(constants.ENDPOINT)


@functools.cache
def _is_reachable(_: str) -> bool:
    return any(_answers() for _ in range(TRIES))


def _answers() -> bool:
    answered = threading.Event()
    thread = threading.Thread(target=_request, args=(answered,), daemon=True)
    thread.start()
    thread.join(TIMEOUT)  # request timeouts do not cover name resolution
    return answered.is_set()


def _request(answered: threading.Event) -> None:
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP library's

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except (HTTPError, OSError):
        return
    answered.set()
