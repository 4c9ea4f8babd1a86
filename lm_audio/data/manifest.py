"""Prepared corpora: folders of lhotse manifests with two splits and conditions for each clip.

A corpus is a folder with `train.jsonl.gz` and `held_out.jsonl.gz`, one cut per line, `LICENCES.md`,
and its own audio, if any, in `audio/`. Paths inside the folder are relative, so that it can be
moved. The conditions of a cut are a dict: `text` (the caption and its paraphrases), `speaker`,
`label`, `transcript` and any other attribute. In lhotse they are the cut's only supervision: `text`
and `speaker` are its fields, the rest is in `custom`, with paraphrases as `captions`.

It needs lhotse (pip install 'lm-audio[data]'); training from shards does not.
"""

import gzip
import hashlib
import io
import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from audio_tokenizers.atomic import replacing, replacing_folder
from audio_tokenizers.audio_files import Audio, AudioInfo, read_audio
from audio_tokenizers.resampling import resample
from lm_audio.data.shards import Conditions

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

Cut = Any
"""A `lhotse.cut.Cut`; lhotse is untyped and optional."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """One row of the table of licences."""

    what: str
    author: str
    licence: str
    source: str = ""


def read_cuts(folder: str | Path, split: Split) -> Any:
    """Reads a split of a prepared corpus, or of a folder with a Shar per split, as a CutSet.

    The cuts of a manifest are in memory; those of a Shar are streamed with their audio.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}. Choose one of: {', '.join(SPLITS)}.")
    lhotse = import_lhotse()
    manifest = folder / f"{split}.jsonl.gz"
    if manifest.exists():
        cuts = lhotse.CutSet.from_jsonl_lazy(manifest)
        return lhotse.CutSet.from_cuts(cut.with_recording_path_prefix(folder) for cut in cuts)
    if any((folder / split).glob("cuts.*.jsonl*")):
        return lhotse.CutSet.from_shar(in_dir=folder / split)
    raise ValueError(
        f"{folder} has neither {manifest.name} nor a Shar in {split}/. "
        "Give a folder that a prepare_* recipe wrote."
    )


def write_cuts(
    folder: str | Path,
    cuts: Iterable[Cut],
    *,
    seed: int = 0,
    held_out: float | Collection[str] = 0.05,
) -> dict[Split, int]:
    """Splits cuts, writes both manifests and returns the number of cuts in each.

    Args:
        cuts: made by `make_cut`; cuts of one group stay in one split.
        held_out: the groups to hold out, or their share; at least one group is, if there are two.
    """
    folder = Path(folder)
    cuts = sorted(cuts, key=lambda cut: cut.id)
    twice = next((b.id for a, b in pairwise(cuts) if a.id == b.id), None)
    if twice is not None:
        raise ValueError(f"Duplicate cut id {twice!r}. Cut ids must be unique.")
    held_out_groups = (
        choose_held_out((group_of(cut) for cut in cuts), seed=seed, share=held_out)
        if isinstance(held_out, float | int)
        else held_out
    )
    parts: dict[Split, list[Cut]] = {split: [] for split in SPLITS}
    for cut in cuts:
        parts["held_out" if group_of(cut) in held_out_groups else "train"].append(cut)
    for split, part in parts.items():
        # Without time stamp and file name, the same cuts give the same bytes.
        with (
            replacing(folder / f"{split}.jsonl.gz") as path,
            path.open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as archive,
        ):
            for cut in part:
                line = json.dumps(_relative(cut.to_dict(), folder), ensure_ascii=False)
                archive.write(line.encode() + b"\n")
    return {split: len(part) for split, part in parts.items()}


def write_shar(folder: str | Path, *, cuts_per_shard: int = 1000) -> Path:
    """Writes a copy of a prepared corpus to `shar/` for clusters: FLAC audio in tar files.

    `read_cuts` reads the returned folder.
    """
    shar = Path(folder) / "shar"
    with replacing_folder(shar) as new:
        for split in SPLITS:
            cuts = read_cuts(folder, split)
            if len(cuts):
                (new / split).mkdir()
                cuts.to_shar(new / split, {"recording": "flac"}, shard_size=cuts_per_shard)
    return shar


def make_cut(
    name: str,
    path: str | Path,
    *,
    info: AudioInfo,
    conditions: Conditions,
    group: str | None = None,
) -> Cut:
    """Makes a cut of a whole audio file; `conditions_of` returns its conditions.

    Args:
        name: the id of the cut.
        info: the result of `audio_info` for the file.
        group: cuts of a group stay in one split, for example all clips of a recording, a score or
            a text. Defaults to the name.
    """
    lhotse = import_lhotse()
    if "captions" in conditions:
        raise ValueError(f"{name} has 'captions'. Put paraphrases into the list 'text' instead.")
    rest = {key: check_condition(name, key, value) for key, value in conditions.items()}
    speaker, caption = rest.pop("speaker", None), rest.pop("text", None)
    if isinstance(caption, list):
        if caption[1:]:
            rest["captions"] = caption[1:]
        caption = caption[0]
    channels = list(range(info.num_channels))
    recording = lhotse.Recording(
        id=name,
        sources=[lhotse.AudioSource(type="file", channels=channels, source=str(path))],
        sampling_rate=info.sample_rate,
        num_samples=info.num_samples,
        duration=info.duration,
    )
    channel = channels if len(channels) > 1 else 0
    supervision = lhotse.SupervisionSegment(
        id=name,
        recording_id=name,
        start=0.0,
        duration=info.duration,
        channel=channel,
        text=caption,
        speaker=speaker,
        custom=rest or None,
    )
    kind = lhotse.MultiCut if len(channels) > 1 else lhotse.MonoCut
    return kind(
        id=name,
        start=0.0,
        duration=info.duration,
        channel=channel,
        supervisions=[supervision] if conditions else [],
        recording=recording,
        custom=None if group is None else {"group": group},
    )


def conditions_of(cut: Cut) -> Conditions:
    """The conditions of a cut; `text` is a list, the caption first."""
    if not cut.supervisions:
        return {}
    if len(cut.supervisions) > 1:
        raise ValueError(
            f"The cut {cut.id!r} has {len(cut.supervisions)} supervisions, expected one. "
            "Trim the cuts to their supervisions."
        )
    supervision = cut.supervisions[0]
    rest = dict(supervision.custom or {})
    captions = rest.pop("captions", [])
    conditions: Conditions = {}
    if supervision.text:
        conditions["text"] = [supervision.text, *captions]
    if supervision.speaker:
        conditions["speaker"] = supervision.speaker
    return conditions | {key: check_condition(cut.id, key, value) for key, value in rest.items()}


def group_of(cut: Cut) -> str:
    """The group of a cut, which stays in one split."""
    return (cut.custom or {}).get("group", cut.id)


def read_cut_audio(
    cut: Cut, *, sample_rate: int | None = None, num_channels: int | None = None
) -> Audio:
    """Reads the samples of any cut, optionally resampled or with another number of channels.

    Args:
        sample_rate: the cut's own by default.
        num_channels: 1 takes the mean of all channels; a mono cut is repeated.
    """
    recording = getattr(cut, "recording", None)
    if recording is not None and _is_plain(cut, recording):
        source = recording.sources[0].source
        return read_audio(
            io.BytesIO(source) if isinstance(source, bytes) else source,
            start=cut.start,
            duration=None if cut.duration == recording.duration else cut.duration,
            sample_rate=sample_rate,
            num_channels=num_channels,
        )
    samples = torch.from_numpy(cut.load_audio())  # [C, N]: lhotse mixes, perturbs, runs commands
    if num_channels == 1:
        samples = samples.mean(0, keepdim=True)
    elif num_channels is not None and len(samples) not in (1, num_channels):
        raise ValueError(
            f"The cut {cut.id!r} has {len(samples)} channels, so num_channels must be 1 or "
            f"{len(samples)}, got {num_channels}."
        )
    elif num_channels is not None:
        samples = samples.expand(num_channels, -1)
    target_rate = sample_rate or cut.sampling_rate
    return Audio(samples=resample(samples, cut.sampling_rate, target_rate), sample_rate=target_rate)


def choose_held_out(groups: Iterable[str], *, seed: int, share: float) -> set[str]:
    """The groups to hold out, chosen by hash, so that adding groups does not affect others.

    With two or more groups, at least one is held out and at least one is not.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The held-out share must be at least 0 and below 1, got {share}.")
    order = sorted(set(groups), key=lambda group: _share(f"{seed}/{group}"))
    if share == 0 or len(order) < 2:
        return set()
    number = sum(_share(f"{seed}/{group}") < share for group in order)
    return set(order[: min(max(number, 1), len(order) - 1)])


def write_licences(folder: str | Path, licences: Iterable[Licence], *, note: str = "") -> None:
    """Writes `LICENCES.md`, one row per part of the corpus with its own licence."""
    rows = [("what", "author", "licence", "source"), ("---",) * 4]
    rows += [(row.what, row.author, row.licence, row.source) for row in licences]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    parts = ["# Licences of the audio", *([note] if note else []), "\n".join(table)]
    with replacing(Path(folder) / "LICENCES.md") as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def check_condition(name: str, key: str, value: Any) -> str | float | list[str]:
    """Checks a condition of the item `name`: text, a finite number, or a list of texts."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return value
    raise ValueError(
        f"{key!r} of {name} must be text, a finite number or a list of texts, got {value!r}."
    )


def import_lhotse() -> ModuleType:
    """Imports lhotse; recipes call this first, to fail early."""
    try:
        import lhotse
    except ImportError as error:
        raise ValueError(
            "A prepared corpus needs lhotse. Install it with: pip install 'lm-audio[data]'."
        ) from error
    return lhotse


def _is_plain(cut: Cut, recording: Any) -> bool:
    """Whether the cut is an unmodified span of one file with all channels."""
    return (
        len(recording.sources) == 1
        and recording.sources[0].type in ("file", "memory")
        and not recording.transforms
        and cut.num_channels == recording.num_channels
    )


def _relative(cut: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Makes the paths of a cut's audio relative to the folder where they are inside, in place."""
    base = folder.absolute()
    for source in cut.get("recording", {}).get("sources", []):
        if source["type"] == "file":
            path = Path(source["source"]).absolute()
            inside = path.is_relative_to(base)
            source["source"] = path.relative_to(base).as_posix() if inside else str(path)
    return cut


def _share(name: str) -> float:
    """A number in [0, 1) that depends only on the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
