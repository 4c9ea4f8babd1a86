"""Folders written whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields a new folder beside `folder` that takes its place when the block ends without error.

    What was there before goes last, and comes back if its place cannot be taken.
    """
    folder = folder.resolve()  # what a link points to is replaced, not the link
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
    """Lets others read all files as the umask has it; some writers make files for their owner."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
