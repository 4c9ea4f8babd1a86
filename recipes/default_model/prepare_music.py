"""Makes a corpus of music with exact captions: generated scores, rendered with a soundfont.

    python recipes/default_model/prepare_music.py --preset tiny  # three minutes of plain tones
    python recipes/default_model/prepare_music.py --hours 20  # 21 instruments, in rotation
    python recipes/default_model/prepare_music.py --solo piano --out runs/piano
    python recipes/default_model/prepare_music.py --soundfont MY.sf2 --seed 1

It needs fluidsynth and a soundfont (apt-get install fluidsynth fluid-soundfont-gm), and mido
(pip install 'lm-audio[data]'); `--engine simple` needs neither, but sounds plain. Each clip is a
piece of 4 to 10 s by default: one instrument, two, or a small band, with chords, phrases and a
cadence. Its caption and paraphrases name the instruments, tempo, mood and key.

`--out` receives audio/, train.jsonl.gz and held_out.jsonl.gz (see lm_audio/data/manifest.py),
LICENCES.md, and unseen_captions.jsonl: wordings for the held-out clips that training never uses.
The same seed gives the same bytes. An interrupted run resumes, and more `--hours` later add clips.
One core renders two to three hours of music a minute, with 250 MB of memory per process.
"""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import audio_info
from corpora.music.files import write_pieces
from corpora.music.fluidsynth import check_fluidsynth
from corpora.music.instruments import INSTRUMENTS
from corpora.music.scores import LENGTHS, Score, compose
from corpora.music.wordings import describe_score, score_captions
from corpora.settings import keep_settings
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import (
    Licence,
    Split,
    make_cut,
    read_cuts,
    write_cuts,
    write_licences,
)

BATCH = 24
"""Pieces per render process, which loads the soundfont once."""


@dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = Path("runs/music")
    preset: Literal["default", "tiny"] = "default"
    hours: float | None = None
    """Hours of music to make; default 1, or 0.05 with the tiny preset."""
    sample_rate: int | None = None
    """Sample rate in Hz; default 24,000, or 16,000 with the tiny preset."""
    engine: Literal["fluidsynth", "simple"] | None = None
    """Synthesiser; default fluidsynth, or simple with the tiny preset."""
    solo: str | None = None
    """Instrument that plays all pieces alone; all instruments take turns by default."""
    shortest: float = LENGTHS[0]
    """Minimum length of a piece in seconds; at most half of --longest."""
    longest: float = LENGTHS[1]
    """Maximum length of a piece in seconds."""
    soundfont: Path = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
    """Soundfont for fluidsynth."""
    soundfont_licence: str = "MIT"
    """Licence of the soundfont to write into LICENCES.md; MIT applies to FluidR3."""
    captions: int = 4
    """Captions per clip, paraphrases included."""
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
    engine = config.engine or ("simple" if tiny else "fluidsynth")
    if not hours > 0:
        raise ValueError(f"--hours must be above 0, got {hours}.")
    if not 8_000 <= sample_rate <= 96_000:
        raise ValueError(f"--sample-rate must be from 8000 to 96000 Hz, got {sample_rate}.")
    if engine == "fluidsynth":
        check_fluidsynth(config.soundfont)
    soundfont = config.soundfont if engine == "fluidsynth" else None
    kind = unusual_kind(config)
    settings = {"seed": config.seed, "sample_rate": sample_rate, "engine": engine, **kind}
    keep_settings(config.out, settings | ({"soundfont": soundfont.name} if soundfont else {}))

    scores = list(enough(3600 * hours, seed=config.seed, **kind))
    paths = [config.out / "audio" / f"{clip_name(score)}.flac" for score in scores]
    write = partial(write_pieces, sample_rate=sample_rate, soundfont=soundfont)
    num_workers = config.num_workers or (1 if tiny else os.cpu_count() or 1)
    with tqdm(total=len(scores), desc=f"playing ({engine})", unit="clip") as progress:
        for number in in_parallel(write, paths, scores, num_workers=num_workers):
            progress.update(number)

    cuts = [
        make_cut(
            clip_name(score),
            path,
            info=audio_info(path),
            conditions={
                "text": score_captions(score, count=config.captions),
                **describe_score(score),
            },
        )
        for score, path in zip(scores, paths, strict=True)
    ]
    counts = write_cuts(config.out, cuts, seed=config.seed, held_out=config.held_out)
    write_unseen(config.out, {clip_name(score): score for score in scores})
    licences = [Licence(what="scores", author="made by a program", licence="CC0-1.0")]
    if soundfont is not None:
        name, licence = soundfont.stem, config.soundfont_licence
        licences.append(Licence(what="samples of the instruments", author=name, licence=licence))
    write_licences(config.out, licences)
    tqdm.write(
        f"{config.out}: {len(cuts):,} clips, {sum(cut.duration for cut in cuts) / 3600:.2f} h; "
        f"{counts['train']:,} to train on, {counts['held_out']:,} held out.\n"
        f"Next: python recipes/tokenize_dataset.py --data {config.out}"
    )
    return counts


def unusual_kind(config: Config) -> dict[str, Any]:
    """Arguments of `compose` that differ from its defaults."""
    if config.solo is not None and config.solo not in INSTRUMENTS:
        known = ", ".join(INSTRUMENTS)
        raise ValueError(f"Unknown instrument {config.solo!r} for --solo. Choose one of: {known}.")
    if not 2 <= config.shortest <= config.longest / 2:
        raise ValueError(
            f"--shortest must be at least 2 s and at most half of --longest, got "
            f"{config.shortest:g} and {config.longest:g}."
        )
    kind: dict[str, Any] = {} if config.solo is None else {"solo": config.solo}
    if (lengths := (config.shortest, config.longest)) != LENGTHS:
        kind["lengths"] = list(lengths)
    return kind


def enough(seconds: float, *, seed: int, **kind: Any) -> Iterator[Score]:
    """Yields scores until they fill the time, at least one."""
    for number in count():
        score = compose(number, seed=seed, **kind)
        yield score
        seconds -= score.seconds
        if seconds <= 0:
            return


def in_parallel(
    write: Callable[[list[Path], list[Score]], int],
    paths: list[Path],
    scores: list[Score],
    *,
    num_workers: int,
) -> Iterator[int]:
    """Runs `write` for each batch; a single worker runs in this process."""
    starts = range(0, len(scores), BATCH)
    path_batches = [paths[start : start + BATCH] for start in starts]
    score_batches = [scores[start : start + BATCH] for start in starts]
    if num_workers == 1:
        yield from map(write, path_batches, score_batches)
        return
    context = multiprocessing.get_context("spawn")  # forking is unsafe with torch's threads
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(write, path_batches, score_batches)


def clip_name(score: Score) -> str:
    return f"{score.number:06d}-{score.instruments[0].replace(' ', '_')}"


def write_unseen(folder: Path, scores: dict[str, Score]) -> None:
    """Writes two captions per held-out clip, in wordings that training never uses."""
    with replacing(folder / "unseen_captions.jsonl") as path, path.open("w") as file:
        for cut in read_cuts(folder, "held_out"):
            captions = score_captions(scores[cut.id], count=2, unseen=True)
            file.write(json.dumps({"id": cut.id, "captions": captions}) + "\n")


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
