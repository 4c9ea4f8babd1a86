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
"""Pieces that are rendered together: a process loads the soundfont once for them."""


@dataclass(frozen=True, kw_only=True)
class Config:
    out: Path = Path("runs/music")
    preset: Literal["default", "tiny"] = "default"
    hours: float | None = None
    """One hour by default, three minutes for the tiny preset."""
    sample_rate: int | None = None
    """In Hz; 24,000 by default, 16,000 for the tiny preset."""
    engine: Literal["fluidsynth", "simple"] | None = None
    """fluidsynth by default, simple for the tiny preset."""
    solo: str | None = None
    """The instrument that plays all pieces, alone; by default they take turns."""
    shortest: float = LENGTHS[0]
    longest: float = LENGTHS[1]
    """The length of a piece, in seconds."""
    soundfont: Path = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
    soundfont_licence: str = "MIT"
    """Written into LICENCES.md; that of FluidR3 is MIT."""
    captions: int = 4
    """A caption and its paraphrases for each clip."""
    held_out: float = 0.05
    """The share to hold out for validation."""
    num_workers: int | None = None
    """As many processes as there are cores, one for the tiny preset."""
    seed: int = 0


def main(config: Config) -> dict[Split, int]:
    """Makes the corpus and returns the number of clips in each split."""
    tiny = config.preset == "tiny"
    hours = (0.05 if tiny else 1.0) if config.hours is None else config.hours
    sample_rate = config.sample_rate or (16_000 if tiny else 24_000)
    engine = config.engine or ("simple" if tiny else "fluidsynth")
    if not hours > 0:
        raise ValueError(f"--hours is {hours}; give a number above 0, such as 1.")
    if not 8_000 <= sample_rate <= 96_000:
        raise ValueError(f"--sample-rate is {sample_rate}; give one of 8000 to 96000 Hz.")
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
    """What `compose` is told of the pieces where they are not the usual ones."""
    if config.solo is not None and config.solo not in INSTRUMENTS:
        raise ValueError(f"--solo is {config.solo}; give one of {', '.join(INSTRUMENTS)}.")
    if not 2 <= config.shortest <= config.longest / 2:
        raise ValueError(
            f"--shortest is {config.shortest:g} and --longest {config.longest:g}; give 2 seconds "
            "or more, and at least twice as many."
        )
    kind: dict[str, Any] = {} if config.solo is None else {"solo": config.solo}
    if (lengths := (config.shortest, config.longest)) != LENGTHS:
        kind["lengths"] = list(lengths)
    return kind


def enough(seconds: float, *, seed: int, **kind: Any) -> Iterator[Score]:
    """Scores of a kind until they fill the time, at least one."""
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
    """Runs `write` for each batch; one worker needs no other process."""
    starts = range(0, len(scores), BATCH)
    path_batches = [paths[start : start + BATCH] for start in starts]
    score_batches = [scores[start : start + BATCH] for start in starts]
    if num_workers == 1:
        yield from map(write, path_batches, score_batches)
        return
    context = multiprocessing.get_context("spawn")  # forking is not safe beside torch's threads
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        yield from pool.map(write, path_batches, score_batches)


def clip_name(score: Score) -> str:
    return f"{score.number:06d}-{score.instruments[0].replace(' ', '_')}"


def write_unseen(folder: Path, scores: dict[str, Score]) -> None:
    """For each clip held out, two captions in wordings that are never trained on."""
    with replacing(folder / "unseen_captions.jsonl") as path, path.open("w") as file:
        for cut in read_cuts(folder, "held_out"):
            captions = score_captions(scores[cut.id], count=2, unseen=True)
            file.write(json.dumps({"id": cut.id, "captions": captions}) + "\n")


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
