"""Files and folders written whole or not at all."""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that replaces it when the block ends without error.

    The temporary file keeps the suffix of `path`, since writers choose a format by it. Parallel
    writers of one path each write their own file; the last to finish wins.
    """
    path = Path(path).resolve()  # what a link points to is replaced, not the link
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):  # one look: others may come and go meanwhile
            raise ValueError(f"{path} is not a file; give the name of a file to write or replace.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    # Created here, not by mkstemp, whose files only their owner can read: the umask decides.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers, safetensors among them, put a private file there
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
