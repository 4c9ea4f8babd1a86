"""Synthesises a corpus of sound effects from formulas, with exact captions; downloads nothing.

    python recipes/default_model/prepare_effects.py --preset tiny  # three minutes of sound
    python recipes/default_model/prepare_effects.py --hours 10  # 39 classes, in rotation
    python recipes/default_model/prepare_effects.py --samples /usr/share/sonic-pi/samples

corpora/effects has one function for each class: sirens, bells, birds, engines, brooks and so on.
Its parameters are drawn at random and described by a caption and paraphrases. `--samples` adds a
folder of recordings whose file names describe them (those of sonic-pi-samples are CC0).

`--out` receives audio/, train.jsonl.gz and held_out.jsonl.gz (see lm_audio/data/manifest.py),
LICENCES.md, and unseen_captions.jsonl: wordings for the held-out clips that training never uses.
The same seed gives the same bytes. An interrupted run resumes, and more `--hours` later add clips.
On one core, an hour of sound at 24 kHz takes 70 s and 350 MB of memory per process.
"""

import json
import multiprocessing
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from corpora.captions import with_article
from corpora.effects.catalogue import (
    EffectPlan,
    effect_captions,
    plan_effect,
    write_effect,
)
from corpora.settings import keep_settings
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import (
    Cut,
    Licence,
    Split,
    make_cut,
    read_cuts,
    write_cuts,
    write_licences,
)
from lm_audio.data.shards import Conditions

SOUNDS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"}
ABBREVIATIONS = {
    "ambi": "ambient", "bd": "bass drum", "elec": "electronic", "guit": "guitar", "misc": "",
    "mehackit": "electronic", "perc": "percussive", "sn": "snare drum",
}  # fmt: skip
"""Meanings of the first part of a sample's name."""


@dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = Path("runs/effects")
    preset: Literal["default", "tiny"] = "default"
    hours: float | None = None
    """Hours of sound to make; default 1, or 0.05 with the tiny preset."""
    sample_rate: int | None = None
    """Sample rate in Hz; default 24,000, or 16,000 with the tiny preset."""
    captions: int = 4
    """Captions per clip, paraphrases included."""
    samples: Path | None = None
    """Folder of recordings to add; their file names become captions."""
    samples_licence: str = "CC0-1.0"
    """Licence of --samples to write into LICENCES.md."""
    held_out: float = 0.05
    """Share of clips to hold out for validation."""
    num_workers: int | None = None
    """Number of processes; defaults to one per CPU core, or 1 with the tiny preset."""
    seed: int = 0


def main(config: Config) -> dict[Split, int]:
    """Makes the corpus and returns the number of clips in each split."""
    tiny = config.preset == "tiny"
    hours = (0.05 if tiny else 1.0) if config.hours is None else config.hours
    sample_rate = config.sample_rate or (16_000 if tiny else 24_000)
    if not hours > 0:
        raise ValueError(f"--hours must be above 0, got {hours}.")
    keep_settings(config.out, {"seed": config.seed, "sample_rate": sample_rate})

    plans = list(enough(3600 * hours, seed=config.seed))
    paths = [config.out / "audio" / f"{clip_name(plan)}.flac" for plan in plans]
    write = partial(write_effect, sample_rate=sample_rate)
    num_workers = config.num_workers or (1 if tiny else os.cpu_count() or 1)
    written = in_parallel(write, paths, plans, num_workers=num_workers)
    for _ in tqdm(written, total=len(plans), desc="making", unit="clip"):
        pass

    cuts = [
        make_cut(
            clip_name(plan), path, info=audio_info(path), conditions=describe(plan, config.captions)
        )
        for plan, path in zip(plans, paths, strict=True)
    ]
    licences = [Licence(what="effects", author="made by a program", licence="CC0-1.0")]
    if config.samples is not None:
        cuts += take_samples(config.samples, config, sample_rate)
        licences.append(
            Licence(
                what=f"samples of {config.samples.name}",
                author="see the source",
                licence=config.samples_licence,
                source=str(config.samples),
            )
        )
    counts = write_cuts(config.out, cuts, seed=config.seed, held_out=config.held_out)
    write_unseen(config.out, {clip_name(plan): plan for plan in plans})
    write_licences(config.out, licences)
    tqdm.write(
        f"{config.out}: {len(cuts):,} clips, {sum(cut.duration for cut in cuts) / 3600:.2f} h; "
        f"{counts['train']:,} to train on, {counts['held_out']:,} held out.\n"
        f"Next: python recipes/tokenize_dataset.py --data {config.out}"
    )
    return counts


def enough(seconds: float, *, seed: int) -> Iterator[EffectPlan]:
    """Yields plans until they fill the time, at least one."""
    for number in count():
        plan = plan_effect(number, seed=seed)
        yield plan
        seconds -= plan.seconds
        if seconds <= 0:
            return


def in_parallel(
    write: "partial[None]", paths: list[Path], plans: list[EffectPlan], *, num_workers: int
) -> Iterator[None]:
    """Runs `write` for each path and plan; a single worker runs in this process."""
    if num_workers == 1:
        yield from map(write, paths, plans)
        return
    context = multiprocessing.get_context("spawn")  # forking is unsafe with torch's threads
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(write, paths, plans, chunksize=8)


def clip_name(plan: EffectPlan) -> str:
    return f"{plan.number:06d}-{plan.label.replace(' ', '_')}"


def describe(plan: EffectPlan, num_captions: int) -> Conditions:
    """The conditions of a clip: captions, the class and the words for its attributes."""
    words = {name: word for name, word in plan.words.items() if word}
    captions = effect_captions(plan, count=num_captions)
    return {"text": captions, "label": plan.label, **words}


def write_unseen(folder: Path, plans: dict[str, EffectPlan]) -> None:
    """Writes two captions per held-out clip, in wordings that training never uses."""
    with replacing(folder / "unseen_captions.jsonl") as path, path.open("w") as file:
        for cut in read_cuts(folder, "held_out"):
            if cut.id in plans:
                captions = effect_captions(plans[cut.id], count=2, unseen=True)
                file.write(json.dumps({"id": cut.id, "captions": captions}) + "\n")


def take_samples(folder: Path, config: Config, sample_rate: int) -> list[Cut]:
    """Copies recordings in mono; numbered takes of one thing stay in one split."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUNDS)
    if not paths:
        raise ValueError(f"No audio files found in {folder}; pass another folder as --samples.")
    cuts = []
    for number, path in enumerate(tqdm(paths, desc="copying samples", unit="file")):
        name = f"sample-{path.stem}"
        copy = config.out / "audio" / f"{name}.flac"
        audio = read_audio(path, sample_rate=sample_rate, num_channels=1)
        peak = max(1.0, float(audio.samples.abs().max()))  # resampling adds to it
        write_audio(copy, audio.samples / peak, sample_rate)
        what = caption_of(path.stem)
        rng = np.random.default_rng([config.seed, number, 4])
        ways = [f"the sound of a {what}", f"a {what} recorded up close", f"one {what}", f"{what}"]
        captions = [with_article(ways[i]) for i in rng.permutation(len(ways))[: config.captions]]
        conditions: Conditions = {"text": captions, "label": what}
        group = re.sub(r"\d+$", "", path.stem)
        cuts.append(make_cut(name, copy, info=audio_info(copy), conditions=conditions, group=group))
    return cuts


def caption_of(stem: str) -> str:
    """Turns a name such as elec_blip2 into words: electronic blip."""
    first, *rest = re.sub(r"\d+$", "", stem).split("_")
    words = [ABBREVIATIONS.get(first, first), *rest]
    if first == "loop":
        words = [*rest, "loop"]
    return " ".join(word for word in words if word)


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
