"""Files written whole or not at all."""

import os
import secrets
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
