"""Prepares ESC-10: 400 recordings of ten classes (dogs, rain, sneezes ...), with varied captions.

    python recipes/prepare_esc10.py --preset tiny                 # seconds, synthetic noise instead
    python recipes/prepare_esc10.py --data ESC-50/ --out runs/esc10

`--data` is a copy of ESC-50 (meta/esc50.csv and audio/) or of ESC-10, one folder per class
(https://github.com/karolpiczak/ESC-50, https://github.com/karoldvl/ESC-10; CC-BY 3.0 as a set).
Each clip gets all captions of its class, in random order; they hold for every clip of the class.
`--out` receives train.jsonl.gz and held_out.jsonl.gz, which keep all clips of one recording in one
split; unseen_captions.jsonl, test captions that no clip has; and LICENCES.md, with the author and
licence of each clip where `--data` lists them. The audio is not copied. It takes seconds. To
evaluate on the fifth fold, leave it out: --folds 1 2 3 4.
"""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from audio_tokenizers.atomic import replacing
from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import Licence, Split, make_cut, write_cuts, write_licences

CLIP = re.compile(r"(?P<fold>[1-5])-(?P<recording>\d+)-[A-Z]")
# Both kinds of list: "[1-9-A.ogg]: clip derived from T (http://S) by A [CC0]" and in Markdown.
ATTRIBUTION = re.compile(
    r"\[(?P<clip>\d-\d+-[A-Z])\.\w+\].*?derived from \[?(?P<title>.*?)\]?\s?"
    r"\((?P<source>http[^)]*)\) by \*?(?P<author>.*?)\*? \(?\[(?P<licence>[^\]]+)\]"
)
FRAMES = ("the sound of {}", "a recording of {}", "{} can be heard")


@dataclass(frozen=True, kw_only=True)
class Words:
    """Captions of a class.

    Args:
        folders: its names in ESC-50 and ESC-10.
        names: noun phrases that fill the templates in FRAMES.
        sentences: captions that are used as they are.
        unseen: captions for tests only.
    """

    folders: tuple[str, ...]
    names: tuple[str, ...]
    sentences: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def captions(self) -> list[str]:
        framed = [frame.format(name) for frame in FRAMES for name in self.names]
        return [*self.names, *self.sentences, *framed]


CLASSES = {
    "dog bark": Words(
        folders=("dog", "dog_bark"),
        names=("a dog barking", "a barking dog", "the bark of a dog"),
        sentences=(
            "a dog barks",
            "a dog is barking",
            "dog bark",
            "woof woof",
            "the barking of a dog",
        ),
        unseen=("a hound lets out a bark", "barks from a puppy", "our dog won't stop barking"),
    ),
    "rain": Words(
        folders=("rain",),
        names=("rain", "falling rain", "rain coming down", "the fall of rain"),
        sentences=(
            "rain falls",
            "it is raining",
            "it rains outside",
            "rain comes down",
            "rainfall",
        ),
        unseen=("a rainy day", "raindrops patter down without end", "a shower of rain"),
    ),
    "sea waves": Words(
        folders=("sea_waves",),
        names=("sea waves", "ocean waves", "waves on a beach", "the surf of the sea"),
        sentences=(
            "waves roll onto the shore",
            "the sea washes against the coast",
            "waves break on the beach",
            "the ocean surges",
        ),
        unseen=("the tide rolls in", "water crashes upon the shore", "a seashore with surf"),
    ),
    "baby cry": Words(
        folders=("crying_baby", "baby_cry"),
        names=("a baby crying", "a crying baby", "the cry of an infant"),
        sentences=(
            "a baby cries",
            "a baby is crying",
            "an infant cries",
            "a small child weeps",
            "baby cry",
        ),
        unseen=("a newborn bawls", "a toddler in tears wails", "an upset baby sobs and cries"),
    ),
    "clock tick": Words(
        folders=("clock_tick",),
        names=("a ticking clock", "a clock ticking", "the tick of a clock"),
        sentences=(
            "a clock ticks",
            "a clock is ticking",
            "tick tock",
            "the clock ticks on and on",
            "clock tick",
        ),
        unseen=(
            "the second hand of a watch ticks",
            "an old timepiece goes tick tock",
            "seconds tick",
        ),
    ),
    "sneeze": Words(
        folders=("sneezing", "person_sneeze"),
        names=("a person sneezing", "a sneeze", "someone sneezing"),
        sentences=(
            "a person sneezes",
            "someone sneezes",
            "somebody has to sneeze",
            "achoo",
            "a human sneezes",
        ),
        unseen=("a sneezing fit", "somebody with a cold goes achoo", "one loud sneeze"),
    ),
    "helicopter": Words(
        folders=("helicopter",),
        names=("a helicopter", "a helicopter flying", "the rotor of a helicopter"),
        sentences=(
            "a helicopter flies",
            "a helicopter is in the air",
            "helicopter blades whirl",
            "the blades of a helicopter chop the air",
            "a helicopter hovers or passes by",
        ),
        unseen=("a chopper overhead", "rotor blades thump through the sky", "a hovering chopper"),
    ),
    "chainsaw": Words(
        folders=("chainsaw",),
        names=("a chainsaw", "a running chainsaw", "the motor of a chainsaw"),
        sentences=(
            "a chainsaw runs",
            "a chainsaw is at work",
            "someone uses a chainsaw",
            "a chainsaw buzzes",
            "a chainsaw revs",
        ),
        unseen=("a lumberjack's power saw", "a motor saw roars", "a tree is sawed with an engine"),
    ),
    "rooster": Words(
        folders=("rooster",),
        names=("a rooster crowing", "a crowing rooster", "the crow of a rooster"),
        sentences=(
            "a rooster crows",
            "a rooster is crowing",
            "a rooster calls",
            "cock-a-doodle-doo",
            "a cock crows",
        ),
        unseen=("a cockerel greets the morning", "the farm's male chicken crows", "a cock's call"),
    ),
    "fire crackling": Words(
        folders=("crackling_fire", "fire_crackling"),
        names=("a crackling fire", "fire crackling", "a burning fire"),
        sentences=(
            "a fire crackles",
            "a fire burns and pops",
            "flames crackle",
            "wood burns in a fire",
            "a fire snaps and crackles",
        ),
        unseen=("logs snap in the fireplace", "a bonfire blazes", "burning wood pops and hisses"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    data: Path | None = None
    """Folder of ESC-50 or ESC-10; uses synthetic noise in the same layout by default."""
    out: Path = Path("runs/esc10")
    preset: Literal["default", "tiny"] = "default"
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Folds to use."""
    licences: tuple[str, ...] = ()
    """Use only clips under these licences; any by default. CC0 CC-BY leaves out two clips."""
    held_out: float = 0.05
    """Share of original recordings to hold out for validation."""
    seed: int = 0


def main(config: Config) -> dict[Split, int]:
    """Prepares the corpus and returns the number of clips in each split."""
    data = config.data or make_up_noises(config.out / "sounds")
    attributions = read_attributions(data)
    clips = [
        (path, label, match["recording"])
        for path, label in find_clips(data)
        if (match := CLIP.fullmatch(path.stem)) and int(match["fold"]) in config.folds
        if not config.licences or attribution(path, attributions).licence in config.licences
    ]
    if not clips:
        raise ValueError(
            f"{data} has no ESC-10 clips in folds {config.folds} with licences "
            f"{config.licences or 'of any kind'}; pass a folder with meta/esc50.csv, or with one "
            "folder per class."
        )
    cuts = []
    for path, label, recording in tqdm(clips, desc="reading", unit="clip"):
        captions = CLASSES[label].captions
        # Seeded by the clip's name, so its captions do not depend on the other clips.
        order = np.random.default_rng([config.seed, *path.stem.encode()]).permutation(len(captions))
        cuts.append(
            make_cut(
                f"{label.replace(' ', '_')}/{path.stem}",
                path,
                info=audio_info(path),
                conditions={"text": [captions[i] for i in order], "label": label},
                group=recording,
            )
        )
    counts = write_cuts(config.out, cuts, seed=config.seed, held_out=config.held_out)
    write_licences(
        config.out,
        [attribution(path, attributions) for path, _, _ in clips],
        note="Clips of ESC-10 (K. J. Piczak, 2015), as a set CC-BY 3.0, made from recordings of "
        "freesound.org.",
    )
    unseen = [{"text": t, "label": label} for label, words in CLASSES.items() for t in words.unseen]
    with replacing(config.out / "unseen_captions.jsonl") as file:
        file.write_text("".join(json.dumps(row) + "\n" for row in unseen), encoding="utf-8")
    tqdm.write(
        f"{config.out}: {counts['train']} clips to train on, {counts['held_out']} held out, "
        f"{len(unseen)} unseen captions.\n"
        f"Next: python recipes/tokenize_dataset.py --data {config.out}"
    )
    return counts


def find_clips(data: Path) -> list[tuple[Path, str]]:
    """The clips of the ten classes, in either layout, with their labels."""
    labels = {folder: label for label, words in CLASSES.items() for folder in words.folders}
    table = data / "meta" / "esc50.csv"
    if table.exists():
        with table.open(encoding="utf-8", newline="") as file:
            rows = [(row["filename"], row["category"]) for row in csv.DictReader(file)]
        return [
            (data / "audio" / name, labels[kind]) for name, kind in sorted(rows) if kind in labels
        ]
    return [
        (path, labels[kind])
        for folder in sorted(data.glob("*/"))
        # "001 - Dog bark" and dog_bark alike
        if (kind := re.sub(r"\W+", "_", folder.name.lower().lstrip("0123456789 -"))) in labels
        for path in sorted(folder.iterdir())
        if path.suffix in (".ogg", ".wav")
    ]


def read_attributions(data: Path) -> dict[str, Licence]:
    """Author and licence of each clip, from the data set's own list."""
    files = [path for name in ("LICEN*", "README*") for path in sorted(data.glob(name))]
    found = {}
    for file in files:
        for match in ATTRIBUTION.finditer(file.read_text(encoding="utf-8", errors="replace")):
            found[match["clip"]] = Licence(
                what=f"{match['clip']}, from {match['title']}",
                author=match["author"],
                licence=match["licence"],
                source=match["source"],
            )
    return found


def attribution(path: Path, attributions: dict[str, Licence]) -> Licence:
    unknown = Licence(what=path.stem, author="", licence="see the data set", source="")
    return attributions.get(path.stem, unknown)


def make_up_noises(data: Path) -> Path:
    """Noise of a different colour for each class: three clips from two recordings."""
    for number, words in enumerate(CLASSES.values()):
        for take, clip in enumerate(("1-100-A", "1-100-B", "2-200-A")):
            rng = np.random.default_rng([number, take])
            noise = np.convolve(rng.standard_normal(24_000), np.hanning(3 + 4 * number), "same")
            samples = torch.from_numpy(0.5 * noise / np.abs(noise).max()).float()
            write_audio(data / words.folders[-1] / f"{clip}.wav", samples, 24_000)
    return data


if __name__ == "__main__":
    run_recipe(main, Config, description=__doc__)
