"""manifest.jsonl: the settings of each clip in a folder, from which a run resumes."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from audio_tokenizers.atomic import replacing

NAME = "manifest.jsonl"

Settings = Mapping[str, Any]
"""What reproduces a clip, ready for JSON."""


def read_manifest(folder: Path) -> dict[str, Settings]:
    """The settings of each clip by file name; the last line of a file counts."""
    found = {}
    path = folder / NAME
    for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else []:
        try:
            row = json.loads(line)
            found[row.pop("file")] = row
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # cut off when a run was killed: its clip is generated again
    return found


def add_to_manifest(folder: Path, file: str, settings: Settings) -> None:
    """Appends a line in one write, so that parallel writers do not mix theirs."""
    path = folder / NAME
    line = _line(file, settings)
    with path.open("ab+") as manifest:
        if manifest.tell():
            manifest.seek(-1, os.SEEK_END)
            line = line if manifest.read(1) == b"\n" else f"\n{line}"  # after a line cut off
        manifest.write(line.encode())


def earlier_seed(folder: Path, wanted: Sequence[Settings]) -> int | None:
    """The seed of an earlier run in this folder with one of these settings, apart from the seed."""
    rows = list(read_manifest(folder).values())
    for settings in wanted:
        for row in rows:
            if is_made_with(row, {**settings, "seed": row.get("seed")}):
                return int(row["seed"])
    return None


def is_made_with(row: Settings | None, wanted: Settings) -> bool:
    """Whether a clip has these settings; the manifest lists the precision that auto has chosen."""
    if row is not None and wanted.get("dtype") == "auto":
        wanted = {**wanted, "dtype": row.get("dtype")}
    return row == wanted


def tidy_manifest(folder: Path) -> None:
    """Rewrites the manifest with one line per clip, the last, if an earlier one is superseded."""
    path = folder / NAME
    if not path.exists():
        return
    before = path.read_bytes()
    text = "".join(_line(file, settings) for file, settings in read_manifest(folder).items())
    if text.encode() != before:
        with replacing(path) as temporary:
            temporary.write_bytes(text.encode() + path.read_bytes()[len(before) :])  # added since


def _line(file: str, settings: Settings) -> str:
    return json.dumps({"file": file, **settings}, ensure_ascii=False) + "\n"


@contextmanager
def only_run(folder: Path | None) -> Iterator[None]:
    """Refuses a second run that writes the same clips to a folder at once.

    The lock is on the manifest and ends with the process. There is none on Windows.
    """
    if folder is None or os.name != "posix":
        yield
        return
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    with path.open("ab") as manifest:
        try:
            fcntl.flock(manifest, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another run is writing to {folder}. Wait for it, or choose another folder."
            ) from None
        try:
            yield
        finally:
            if path.stat().st_size == 0:
                path.unlink()
