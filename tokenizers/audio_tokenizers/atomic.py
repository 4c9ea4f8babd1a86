"""Atomic writes of files and folders."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path next to `path` that replaces it if the block succeeds.

    The temporary file keeps the suffix of `path`, since writers choose a format by it. Concurrent
    writers of one path each write their own file; the last to finish wins.
    """
    path = Path(path).resolve()  # replaces the target of a link, not the link
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):  # a single stat, to avoid races
            raise ValueError(f"{path} is not a regular file; choose another output path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    # Not mkstemp, whose files only their owner can read: permissions follow the umask.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers, such as safetensors, make the file private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder next to `folder` that replaces it if the block succeeds.

    The old folder is deleted last, and restored if the replacement fails.
    """
    folder = folder.resolve()  # replaces the target of a link, not the link
    folder.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(8)
    new, old = (folder.with_name(f".{folder.name}.{token}.{age}") for age in ("new", "old"))
    new.mkdir()
    try:
        yield new
        _share(new)
        with suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _share(folder: Path) -> None:
    """Gives all files the permissions of the umask; some writers make them private."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
