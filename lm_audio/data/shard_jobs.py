"""Plans and makes shards reproducibly.

A shard depends only on its clips and settings, so shards can be made in any order, by any number of
processes and machines; existing ones are skipped. Their settings are in `config.json`, and a report
of each in `done/`.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_tokenizers.atomic import replacing
from audio_tokenizers.resampling import resample
from lm_audio.data.augmentation import (
    filled,
    mix,
    mixed_conditions,
    passage_conditions,
    without_silent_ends,
)
from lm_audio.data.manifest import SPLITS, Cut, Split, conditions_of, read_cut_audio, read_cuts
from lm_audio.data.shards import Example, Stream, shard_path, write_shard
from lm_audio.data.tokenizing import Tokenizers, TokenizingConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A shard to be made.

    Args:
        cuts: its clips, or the part of a Shar that holds them.
        seconds: their total duration.
        fingerprint: a hash of their content.
    """

    split: Split
    number: int
    cuts: Sequence[Cut] | Path
    seconds: float
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a job; `skipped` has the names of unusable clips and the reasons."""

    num_examples: int
    num_clipped: int
    skipped: list[tuple[str, str]]


def plan_jobs(corpus: Path, config: TokenizingConfig) -> list[Job]:
    """Plans the shards of a prepared corpus, or of a folder with a Shar per split.

    The clips of a manifest are divided evenly and at random; a part of a Shar becomes a shard.
    """
    return [
        Job(
            split=split,
            number=number,
            cuts=cuts if file is None else file,
            seconds=sum(cut.duration for cut in cuts),
            fingerprint=_fingerprint(cuts),
        )
        for split in SPLITS
        for number, (cuts, file) in enumerate(_parts(corpus, split, config))
    ]


def claim_folder(
    folder: Path, *, config: TokenizingConfig, streams: Mapping[str, Stream], jobs: Sequence[Job]
) -> None:
    """Writes the settings of a folder's shards to `config.json`; raises if they differ."""
    corpus = hashlib.sha256("".join(job.fingerprint for job in jobs).encode()).hexdigest()
    now = {
        **{f"{name} tokenizer": stream.identity for name, stream in streams.items()},
        "num_codebooks": config.num_codebooks,
        "num_channels": config.num_channels,
        "max_seconds": config.max_seconds,
        "examples_per_shard": config.examples_per_shard,
        "num_mixed": config.num_mixed,
        "passage_seconds": config.passage_seconds,
        "fill_seconds": config.fill_seconds,
        "seed": config.seed,
        "corpus": corpus[:16],
    }
    path = folder / "config.json"
    before = json.loads(path.read_text()) if path.exists() else now
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"The shards in {folder} were made with the {name} {before.get(name)}, not "
                f"{now.get(name)}. Choose another folder, or delete this one."
            )
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(now, indent=2) + "\n")


def read_report(folder: Path, job: Job) -> Report | None:
    """The report of a complete shard; else None."""
    path = _report_path(folder, job)
    if not path.exists():
        return None
    report = json.loads(path.read_text())
    if report["num_examples"] and not shard_path(folder, job.split, job.number).exists():
        return None
    return Report(**{**report, "skipped": [(name, why) for name, why in report["skipped"]]})


def make_shard(
    job: Job, folder: Path, *, config: TokenizingConfig, tokenizers: Tokenizers
) -> Report:
    """Writes a shard, then its report; skips unusable clips."""
    examples: list[Example] = []
    usable: list[Cut] = []
    skipped: list[tuple[str, str]] = []
    num_clipped = 0
    clips, groups = _clips(job, config.max_seconds), list[list[Cut]]()
    if config.passage_seconds is not None and job.split == "train":
        clips, groups = _grouped(list(clips), config.passage_seconds)
    for clip in clips:
        try:
            samples = _samples(clip, job, config=config, tokenizers=tokenizers)
            streams, conditions = tokenizers.encode(samples), conditions_of(clip)
        except _unusable() as error:
            skipped.append((clip.id, _reason(error)))
            continue
        examples.append(Example(id=clip.id, streams=streams, conditions=conditions))
        usable.append(clip)
        if config.sample_rate is not None:
            num_clipped += bool(samples[config.sample_rate].abs().max() > 1)
    if config.num_mixed and job.split == "train" and len(usable) > 1:
        examples += _mixtures(usable, job, config=config, tokenizers=tokenizers)
    for group in groups:
        examples += _passage(group, skipped, tokenizers=tokenizers)
    report = Report(num_examples=len(examples), num_clipped=num_clipped, skipped=skipped)
    if examples:
        write_shard(shard_path(folder, job.split, job.number), examples, tokenizers.streams)
    with replacing(_report_path(folder, job)) as path:
        path.write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _parts(
    corpus: Path, split: Split, config: TokenizingConfig
) -> Iterator[tuple[Sequence[Cut], Path | None]]:
    """The clips of each shard, and for a Shar the file that lists them."""
    has_manifest = (corpus / f"{split}.jsonl.gz").exists()
    files = [] if has_manifest else sorted((corpus / split).glob("cuts.*.jsonl*"))
    for file in files:
        yield list(_shar_part(file, audio=False)), file
    if has_manifest or (split == "train" and not files):
        cuts = list(read_cuts(corpus, split))
        num_shards = -(-len(cuts) // config.examples_per_shard)
        order = np.random.default_rng([config.seed]).permutation(len(cuts))
        for rows in np.array_split(order, num_shards) if cuts else []:
            yield [cuts[i] for i in rows], None


def _clips(job: Job, max_seconds: float) -> Iterator[Cut]:
    """The clips of a job; longer ones are split into equal parts."""
    for cut in _shar_part(job.cuts, audio=True) if isinstance(job.cuts, Path) else job.cuts:
        num_parts = int(np.ceil(cut.duration / max_seconds))
        if num_parts == 1:
            yield cut
            continue
        # Aligned to samples, otherwise rounding would repeat or lose some.
        ends = [cut.num_samples * part // num_parts for part in range(num_parts + 1)]
        for begin, end in pairwise(ends):
            start, duration = begin / cut.sampling_rate, (end - begin) / cut.sampling_rate
            clip = cut.truncate(offset=start, duration=duration)
            yield clip.with_id(f"{cut.id}@{start:.2f}").map_supervisions(_without_transcript)


def _mixtures(
    clips: Sequence[Cut], job: Job, *, config: TokenizingConfig, tokenizers: Tokenizers
) -> Iterator[Example]:
    """Mixes each clip with others of its shard, a random part of the corpus."""
    rate = max(tokenizers.sample_rates)
    for index, number in np.ndindex(len(clips), config.num_mixed):
        rng = np.random.default_rng([config.seed, job.number, index, number])
        partner = (index + int(rng.integers(1, len(clips)))) % len(clips)
        pair = clips[index], clips[partner]
        first, second = (
            _samples(clip, job, config=config, tokenizers=tokenizers)[rate] for clip in pair
        )
        longest = max(round(config.max_seconds * rate), first.shape[1], second.shape[1])
        mixture = mix(first, second, rng=rng, max_samples=longest)
        samples = {
            other: resample(mixture.samples, rate, other) for other in tokenizers.sample_rates
        }
        yield Example(
            id=f"{pair[0].id}+{pair[1].id}#{number}",
            streams=tokenizers.encode(samples),
            conditions=mixed_conditions(
                conditions_of(pair[0]), conditions_of(pair[1]), mixture, rng=rng
            ),
        )


def _grouped(clips: Sequence[Cut], seconds: float) -> tuple[Iterator[Cut], list[list[Cut]]]:
    """Single clips, and groups of two or more of one speaker with at least this total duration.

    The remaining clips of a speaker stay single.
    """
    groups: list[list[Cut]] = []
    waiting: dict[str, list[Cut]] = defaultdict(list)
    for clip in clips:
        if (speaker := conditions_of(clip).get("speaker")) is None:
            continue
        group = waiting[str(speaker)]
        group.append(clip)
        if len(group) > 1 and sum(each.duration for each in group) >= seconds:
            groups.append(waiting.pop(str(speaker)))
    joined = {clip.id for group in groups for clip in group}
    return (clip for clip in clips if clip.id not in joined), groups


def _passage(
    clips: Sequence[Cut], skipped: list[tuple[str, str]], *, tokenizers: Tokenizers
) -> list[Example]:
    """Joins clips into one example; None if none is usable."""
    rate = max(tokenizers.sample_rates)
    parts, known = [], []
    for clip in clips:
        try:
            parts.append(without_silent_ends(_read(clip, rate, tokenizers), rate))
            known.append(clip)
        except _unusable() as error:
            skipped.append((clip.id, _reason(error)))
    if not parts:
        return []
    sound = torch.cat(parts, dim=1)
    samples = {other: resample(sound, rate, other) for other in tokenizers.sample_rates}
    return [
        Example(
            id="+".join(clip.id for clip in known),
            streams=tokenizers.encode(samples),
            conditions=passage_conditions([conditions_of(clip) for clip in known]),
        )
    ]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


def _samples(
    clip: Cut, job: Job, *, config: TokenizingConfig, tokenizers: Tokenizers
) -> dict[int, Tensor]:
    """The samples of a clip at each rate, after augmentation."""
    rates = sorted(tokenizers.sample_rates)
    if config.fill_seconds is None or job.split != "train":
        return {rate: _read(clip, rate, tokenizers) for rate in rates}
    rng = np.random.default_rng([config.seed, *clip.id.encode()])
    best = rates[-1]
    sound = filled(_read(clip, best, tokenizers), best, seconds=config.fill_seconds, rng=rng)
    return {rate: resample(sound, best, rate) for rate in rates}


def _read(clip: Cut, rate: int, tokenizers: Tokenizers) -> Tensor:
    return read_cut_audio(clip, sample_rate=rate, num_channels=tokenizers.num_channels).samples


def _without_transcript(supervision: Any) -> Any:
    """The supervision of a part of a clip, without the transcript."""
    custom = dict(supervision.custom or {})
    custom.pop("transcript", None)
    return replace(supervision, custom=custom or None)


def _shar_part(cuts: Path, *, audio: bool) -> Any:
    """The cuts of one part of a Shar, with or without audio."""
    import lhotse

    fields = {"cuts": [cuts]}
    if audio:
        number = cuts.name.split(".")[1]
        fields["recording"] = sorted(cuts.parent.glob(f"recording.{number}.*"))
    return lhotse.CutSet.from_shar(fields=fields)


def _fingerprint(cuts: Sequence[Cut]) -> str:
    """A hash of the clips, independent of their location."""
    facts = [[cut.id, cut.duration, *(each.to_dict() for each in cut.supervisions)] for cut in cuts]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _report_path(folder: Path, job: Job) -> Path:
    return folder / "done" / f"{job.split}-{job.number:05}.json"


def _unusable() -> tuple[type[Exception], ...]:
    """The exceptions raised for damaged, too short or missing clips."""
    from lhotse.audio import AudioLoadingError, DurationMismatchError

    return ValueError, OSError, AudioLoadingError, DurationMismatchError
