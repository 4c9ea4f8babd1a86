"""Prepared corpora: folders of lhotse manifests, their splits and what each clip is known to be.

A corpus is a folder that holds `train.jsonl.gz` and `held_out.jsonl.gz`, one cut a line, audio
below `audio/` where the corpus has its own, and `LICENCES.md`. The paths of audio inside the folder
are relative to it, so that it can be moved. What a cut is known to be are its conditions, a dict:
`text` (the caption and its paraphrases), `speaker`, `label`, `transcript` and any other attribute.
In lhotse's terms they are the one supervision of the cut: `text` and `speaker` are fields of it,
the rest is its `custom`, in which paraphrases are called `captions`.

It needs lhotse (pip install 'lm-audio[data]'); training from shards does not.
"""

import gzip
import hashlib
import io
import json
import math
from collections.abc import Iterable
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
    """Reads a split of a prepared corpus, or of a folder with a Shar for each split: a CutSet.

    The cuts of a manifest are in memory; those of a Shar are read as a stream, audio included.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}; ask for one of: {', '.join(SPLITS)}.")
    lhotse = import_lhotse()
    manifest = folder / f"{split}.jsonl.gz"
    if manifest.exists():
        cuts = lhotse.CutSet.from_jsonl_lazy(manifest)
        return lhotse.CutSet.from_cuts(cut.with_recording_path_prefix(folder) for cut in cuts)
    if any((folder / split).glob("cuts.*.jsonl*")):
        return lhotse.CutSet.from_shar(in_dir=folder / split)
    raise ValueError(
        f"{folder} holds neither {manifest.name} nor a Shar in {split}/; "
        "give a folder that a recipe named prepare_... has written."
    )


def write_cuts(
    folder: str | Path,
    cuts: Iterable[Cut],
    *,
    seed: int = 0,
    held_out: float = 0.05,
) -> dict[Split, int]:
    """Divides cuts into the two splits, writes both manifests and returns the number in each.

    Args:
        cuts: made by `make_cut`; cuts of one group stay in one split.
        held_out: the share of groups to hold out; at least one group is, if there are two.
    """
    folder = Path(folder)
    cuts = sorted(cuts, key=lambda cut: cut.id)
    twice = next((b.id for a, b in pairwise(cuts) if a.id == b.id), None)
    if twice is not None:
        raise ValueError(f"Two cuts have the id {twice!r}; give each cut an id of its own.")
    held_out_groups = choose_held_out((group_of(cut) for cut in cuts), seed=seed, share=held_out)
    parts: dict[Split, list[Cut]] = {split: [] for split in SPLITS}
    for cut in cuts:
        parts["held_out" if group_of(cut) in held_out_groups else "train"].append(cut)
    for split, part in parts.items():
        # No time stamp, no file name: the same cuts give the same bytes.
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
    """Writes a prepared corpus once more as `shar/`, for clusters: its audio as FLAC in tar files.

    `read_cuts` reads the folder that is returned.
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
    """Makes a cut of a whole audio file; `conditions_of` gives the conditions back.

    Args:
        name: the id of the cut.
        info: what `audio_info` says of the file.
        group: what must stay in one split with it: the recording that clips were cut from, a
            score, a text. Its name by default.
    """
    lhotse = import_lhotse()
    if "captions" in conditions:
        raise ValueError(f"{name} has 'captions'; put the paraphrases into the list 'text'.")
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
    """What a cut is known to be; `text` is a list, the caption first."""
    if not cut.supervisions:
        return {}
    if len(cut.supervisions) > 1:
        raise ValueError(
            f"The cut {cut.id!r} has {len(cut.supervisions)} supervisions; "
            "give it one, or trim the cuts to their supervisions."
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
    """What must stay in one split with the cut."""
    return (cut.custom or {}).get("group", cut.id)


def read_cut_audio(
    cut: Cut, *, sample_rate: int | None = None, num_channels: int | None = None
) -> Audio:
    """Reads the samples of any cut: resampled, and mixed down or repeated, where it is asked for.

    Args:
        sample_rate: that of the cut by default.
        num_channels: 1 mixes all channels down to their mean, and one channel is repeated.
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
            f"The cut {cut.id!r} has {len(samples)} channels and {num_channels} were asked for; "
            f"ask for 1 or {len(samples)}."
        )
    elif num_channels is not None:
        samples = samples.expand(num_channels, -1)
    target_rate = sample_rate or cut.sampling_rate
    return Audio(samples=resample(samples, cut.sampling_rate, target_rate), sample_rate=target_rate)


def choose_held_out(groups: Iterable[str], *, seed: int, share: float) -> set[str]:
    """The groups to hold out: those whose hash is low, so more groups change nothing for others.

    If there are two groups at least, one at least is held out and one at least is not.
    """
    if not 0 <= share < 1:
        raise ValueError(f"The held-out share is {share}; use 0 or more, and less than 1.")
    order = sorted(set(groups), key=lambda group: _share(f"{seed}/{group}"))
    if share == 0 or len(order) < 2:
        return set()
    number = sum(_share(f"{seed}/{group}") < share for group in order)
    return set(order[: min(max(number, 1), len(order) - 1)])


def write_licences(folder: str | Path, licences: Iterable[Licence], *, note: str = "") -> None:
    """Writes `LICENCES.md`, one row for each part of the corpus that has a licence of its own."""
    rows = [("what", "author", "licence", "source"), ("---",) * 4]
    rows += [(row.what, row.author, row.licence, row.source) for row in licences]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    parts = ["# Licences of the audio", *([note] if note else []), "\n".join(table)]
    with replacing(Path(folder) / "LICENCES.md") as path:
        path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def check_condition(name: str, key: str, value: Any) -> str | float | list[str]:
    """The value of a condition of what is called `name`: text, a finite number, a list of texts."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, list) and value and all(isinstance(v, str) and v for v in value):
        return value
    raise ValueError(
        f"{key!r} of {name} is {value!r}; give text, a finite number or a list of texts."
    )


def import_lhotse() -> ModuleType:
    """lhotse; a recipe asks for it before hours of work."""
    try:
        import lhotse
    except ImportError as error:
        raise ValueError(
            "A prepared corpus needs lhotse; install it with: pip install 'lm-audio[data]'."
        ) from error
    return lhotse


def _is_plain(cut: Cut, recording: Any) -> bool:
    """Whether the cut is a span of one file, all of its channels, as it is."""
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
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
