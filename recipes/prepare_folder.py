"""Turns a folder of audio files into a corpus that all other recipes read.

    python recipes/prepare_folder.py --preset tiny                           # synthetic sounds
    python recipes/prepare_folder.py --data sounds/ --out runs/corpus        # captions from names
    python recipes/prepare_folder.py --data sounds/ --captions captions.csv  # or .tsv, .jsonl

The table has the columns `file` (a path relative to `--data`, or a unique file name) and `caption`;
several rows for one file are paraphrases. `label`, `speaker`, `transcript` and any other column
become conditions of the model. Files of one `group`, such as clips of one recording, stay in one
split. Captions come from the table, else from a text file next to the audio (dog.txt for dog.wav,
one caption per line), else, without a table, from the name: dog_bark-03.wav and dog_bark/0001.wav
become "dog bark".

`--out` receives train.jsonl.gz and held_out.jsonl.gz (see lm_audio/data/manifest.py), LICENCES.md,
and skipped.txt, which lists unusable files and rows with the reason. The audio is not copied or
converted. Every file is decoded once: about 10 s of CPU time per hour of sound.
"""

import csv
import dataclasses
import io
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import AudioInfo, audio_info, stream_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import (
    Licence,
    Split,
    check_condition,
    import_lhotse,
    make_cut,
    write_cuts,
    write_licences,
    write_shar,
)
from lm_audio.data.shards import Conditions
from lm_audio.data.synthetic import synthetic_clips

SOUNDS = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf"}
# Some versions of libsndfile cannot read these; unreadable files must be reported.
OTHER_SOUNDS = {".w64", ".rf64", ".m4a", ".aac", ".wma"}
NO_CAPTION = "no caption"
TEXTS = {"label", "speaker", "transcript", "group"}
"""Columns that are text even if all their values are numbers."""


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path | None = None
    """Folder of audio files, searched recursively; uses synthetic sounds by default."""
    out: Path = Path("runs/corpus")
    """Folder for the corpus."""
    preset: Literal["default", "tiny"] = "default"
    captions: Path | None = None
    """Table of captions: .csv, .tsv or .jsonl (one object per line)."""
    file_column: str = "file"
    """Column with the file paths."""
    caption_column: str = "caption"
    """Column with the captions."""
    uncaptioned: Literal["name", "skip", "keep"] | None = None
    """Files without a caption: use the name as the caption, skip them, or keep them without one
    (enough to train a codec). Defaults to skip with a table, else to name."""
    group: Literal["file", "folder", "name"] = "file"
    """What to keep in one split unless the table has a `group` column: single files, the files of
    a folder, or files whose names differ only after the last hyphen (1-17092-A, 1-17092-B)."""
    held_out: float = 0.05
    """Share of files to hold out for validation."""
    copy: bool = False
    """Copy the audio into OUT/audio, so that the corpus can be moved."""
    shar: bool = False
    """Also write OUT/shar: audio shards for streaming on clusters."""
    licence: str = "not stated"
    """Licence to write into LICENCES.md."""
    num_workers: int = os.cpu_count() or 1
    seed: int = 0


@dataclass(kw_only=True)
class Described:
    """Captions and attributes of one file, from the table."""

    captions: list[str] = field(default_factory=list)
    attributes: Conditions = field(default_factory=dict)
    group: str | None = None


def main(config: Config) -> dict[Split, int]:
    """Prepares the corpus and returns the number of clips in each split."""
    import_lhotse()
    folder = config.data or make_up_sounds(config.out / "sounds")
    paths = find_audio(folder, besides=config.out if config.data else None)
    skipped: list[tuple[str, str]] = []
    described: dict[Path, Described] = {}
    if config.captions is not None:
        described = read_table(config.captions, folder, paths, config=config, skipped=skipped)

    captioned: list[tuple[Path, Conditions]] = []
    for path in paths:
        conditions = describe(path, folder, described.get(path, Described()), config)
        if conditions is None:
            skipped.append((path.relative_to(folder).as_posix(), NO_CAPTION))
        else:
            captioned.append((path, conditions))
    with ThreadPoolExecutor(config.num_workers) as pool:  # decoding releases the GIL
        probed = pool.map(probe, [path for path, _ in captioned])
        infos = list(tqdm(probed, total=len(captioned), desc="reading", unit="file"))

    cuts, seconds = [], 0.0
    for (path, conditions), info in zip(captioned, infos, strict=True):
        name = path.relative_to(folder).as_posix()
        if isinstance(info, str):
            skipped.append((name, info))
            continue
        group = described.get(path, Described()).group or group_by(path, folder, config.group)
        kept = copied(path, config.out / "audio" / name) if config.copy else path
        cuts.append(make_cut(name, kept, info=info, conditions=conditions, group=group))
        seconds += info.duration

    with replacing(config.out / "skipped.txt") as file:
        file.write_text("".join(f"{name}\t{why}\n" for name, why in skipped), encoding="utf-8")
    if not cuts:
        raise ValueError(
            f"None of the {len(paths)} audio files in {folder} can be used; see "
            f"{config.out / 'skipped.txt'} for the reasons."
        )
    counts = write_cuts(config.out, cuts, seed=config.seed, held_out=config.held_out)
    write_licences(
        config.out, [Licence(what=folder.name, author="", licence=config.licence, source="")]
    )
    if config.shar:
        write_shar(config.out)
    tqdm.write(summary(config, counts, seconds=seconds, skipped=skipped))
    return counts


def summary(
    config: Config,
    counts: dict[Split, int],
    *,
    seconds: float,
    skipped: list[tuple[str, str]],
) -> str:
    """The size of the corpus, its problems, and the next command."""
    held_out, total = counts["held_out"], sum(counts.values())
    clips = f"{total:,} clip{'' if total == 1 else 's'}"
    lines = [f"{config.out}: {clips}, {seconds / 3600:.2f} h, {held_out:,} of them held out."]
    if skipped:
        lines.append(f"Skipped {len(skipped):,}; see {config.out / 'skipped.txt'} for the reasons.")
    uncaptioned = sum(why == NO_CAPTION for _, why in skipped)
    if uncaptioned and config.captions is not None:
        lines.append(
            f"{uncaptioned:,} of these are not in {config.captions}; pass --uncaptioned name to "
            "use their names as captions."
        )
    if not held_out and config.held_out:
        lines.append(
            "Nothing is held out, since all clips are in one group. Training needs two groups."
        )
    lines.append(f"Next: python recipes/tokenize_dataset.py --data {config.out}")
    return "\n".join(lines)


def find_audio(folder: Path, *, besides: Path | None) -> list[Path]:
    """All audio files in a folder, except hidden ones and copies by this recipe."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; pass a folder of audio files as --data.")
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SOUNDS | OTHER_SOUNDS
        and not path.name.startswith(".")
        and not (besides and path.absolute().is_relative_to(besides.absolute()))
    ]
    if not paths:
        raise ValueError(f"No audio files found in {folder}; pass another --data.")
    return paths


def probe(path: Path) -> AudioInfo | str:
    """Decodes a whole file: its info with the true length, or why it is unusable."""
    try:
        info = audio_info(path)
        num_samples, peak = 0, 0.0
        for block in stream_audio(path):
            num_samples += block.shape[1]
            peak = max(peak, block.abs().max().item())
    except ValueError as error:
        return str(error)
    if peak < 1e-4:
        return "silent"
    return dataclasses.replace(info, num_samples=num_samples)


def read_table(
    table: Path,
    folder: Path,
    paths: list[Path],
    *,
    config: Config,
    skipped: list[tuple[str, str]],
) -> dict[Path, Described]:
    """Reads captions and attributes of files; unusable rows go to `skipped`."""
    rows = list(read_rows(table, skipped))
    for column in (config.file_column, config.caption_column):
        if rows and not any(column in row for _, row in rows):
            names = ", ".join(rows[0][1])
            raise ValueError(
                f"{table} has no column {column!r}, only {names}; set --file-column and "
                "--caption-column."
            )
    for column in {"text", "captions"} - {config.caption_column}:  # reserved names of captions
        if any(column in row for _, row in rows):
            raise ValueError(
                f"{table} has a column {column!r} in addition to {config.caption_column!r}; rename "
                f"it, or use it for captions: --caption-column {column}."
            )
    files = defaultdict(list)
    for path in paths:
        relative = path.relative_to(folder)
        for key in {relative.with_suffix("").as_posix(), path.name, path.stem}:
            files[key].append(path)
    exact = {path.relative_to(folder).as_posix(): path for path in paths}

    described: dict[Path, Described] = defaultdict(Described)
    for where, row in rows:
        name = str(row.pop(config.file_column, "") or "")
        found = [exact[name]] if name in exact else files.get(name, [])
        if len(found) != 1:
            skipped.append((where, f"{name!r} matches {len(found)} files"))
            continue
        entry = described[found[0]]
        captions = row.pop(config.caption_column, None) or []
        for caption in captions if isinstance(captions, list) else [captions]:
            text = str(caption).strip()
            if text and text not in entry.captions:
                entry.captions.append(text)
        group = row.pop("group", None)
        entry.group = entry.group or (str(group) if group else None)
        for key, value in row.items():
            if value in (None, ""):
                continue
            try:
                value = check_condition(where, key, str(value) if key in TEXTS else value)
            except ValueError as error:
                skipped.append((where, str(error)))
                continue
            if entry.attributes.setdefault(key, value) != value:
                skipped.append((where, f"its {key} differs from an earlier row of {name!r}"))
    return described


def read_rows(table: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the location and the values of each row; numeric CSV columns become floats."""
    if table.suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"Expected a .csv, .tsv or .jsonl table, got {table}.")
    try:
        lines = io.StringIO(table.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"{table} does not exist; check --captions.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{table} is not UTF-8 text; save it as UTF-8.") from error
    if table.suffix == ".jsonl":
        for number, line in enumerate(lines, start=1):
            where = f"{table.name} line {number}"
            try:
                row = json.loads(line) if line.strip() else {}
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                skipped.append((where, "not a JSON object"))
            elif row:
                yield where, row
        return
    reader = csv.DictReader(lines, delimiter="\t" if table.suffix == ".tsv" else ",")
    rows = [(f"{table.name} line {reader.line_num}", row) for row in reader]
    columns = [name for name in reader.fieldnames or [] if name not in TEXTS]
    numeric = {name for name in columns if all(is_number(row[name] or "0") for _, row in rows)}
    for where, row in rows:
        if None in row:
            skipped.append((where, "more cells than the header"))
        else:
            yield where, {k: float(v) if v and k in numeric else v for k, v in row.items()}


def is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def describe(path: Path, folder: Path, entry: Described, config: Config) -> Conditions | None:
    """The conditions of a file; None if it lacks a required caption."""
    captions = entry.captions
    beside = path.with_suffix(".txt")
    if not captions and beside.exists():
        lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
        captions = [line.strip() for line in lines if line.strip()]
    uncaptioned = config.uncaptioned or ("skip" if config.captions else "name")
    if not captions and uncaptioned == "name":
        captions = [caption] if (caption := caption_from_name(path, folder)) else []
    if captions:
        return {"text": captions, **entry.attributes}
    return entry.attributes if uncaptioned == "keep" else None


def caption_from_name(path: Path, folder: Path) -> str:
    """The words in a file's name, else in the name of the nearest folder above that has any."""
    parts = path.relative_to(folder).with_suffix("").parts
    for part in reversed(parts):
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part)  # dogBark
        words = [re.sub(r"\d+$", "", word) for word in re.split(r"[\W_]+", spaced)]
        # A single letter marks a take; letters mixed with digits form an id.
        words = [word.lower() for word in words if len(word) > 1 and word.isalpha()]
        if words:
            return " ".join(words)
    return ""


def group_by(path: Path, folder: Path, rule: Literal["file", "folder", "name"]) -> str:
    relative = path.relative_to(folder)
    if rule == "folder":
        return relative.parent.as_posix()
    if rule == "name":
        return relative.with_name(path.stem.rpartition("-")[0] or path.stem).as_posix()
    return relative.as_posix()


def copied(path: Path, target: Path) -> Path:
    """Copies a file unless a copy with its size and modification time exists."""
    before, now = (p.stat() if p.exists() else None for p in (target, path))
    assert now is not None
    if before is None or (before.st_size, before.st_mtime) != (now.st_size, now.st_mtime):
        with replacing(target) as file:
            shutil.copy2(path, file)
    return target


def make_up_sounds(folder: Path) -> Path:
    """Writes synthetic sounds named by their kind: folder/rain/rain-02.wav."""
    for clip in synthetic_clips(num_clips=12, seconds=2.0, sample_rate=24_000, seed=0):
        samples = torch.from_numpy(clip.samples).float() / 32767
        write_audio(folder / clip.kind / f"{clip.name}.wav", samples, 24_000)
    return folder


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
