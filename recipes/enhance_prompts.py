"""Captions sounds that have none, and mixes captioned sounds into new ones, as Make-An-Audio does.

    python recipes/enhance_prompts.py --preset tiny        # seconds, synthetic sounds
    python recipes/enhance_prompts.py --data runs/corpus --clap laion/larger_clap_general \\
        --captions captions.txt

Distilling: a joint embedding of sounds and texts (CLAP) ranks all known captions for each sound
without one. Two experts vote: how well the captions match the sound, and how similar the captioned
sounds are that they belong to. The captions with the highest votes are kept, if they match well
enough. Known captions are those of `--data` and the lines of `--captions`.

Reprogramming: new sounds play two or three captioned ones after each other or at once, one of them
perhaps in the background, and their captions say so: "rain, followed by a dog barking". Sounds of
one split are mixed with each other only.

`--data` takes prepared corpora (recipes/prepare_folder.py --uncaptioned keep) and
`--out` receives another: the captioned sounds, where they are, and the mixtures in OUT/audio. The
same command makes the same corpus. CLAP-sized embeddings take about 0.3 s of CPU time per sound.
"""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from audio_tokenizers.audio_files import AudioInfo, audio_info
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import (
    SPLITS,
    Cut,
    Licence,
    Split,
    conditions_of,
    group_of,
    import_lhotse,
    make_cut,
    read_cut_audio,
    read_cuts,
    write_cuts,
    write_licences,
)
from lm_audio.data.synthetic import synthetic_clips
from lm_audio.data.synthetic_shards import CAPTIONS
from lm_audio.evaluation.judges.clap import Clap
from lm_audio.evaluation.judges.embedding import LogMelStatistics
from lm_audio.training.settings import check_least

FULL_SCALE = 32_768
FADE = 0.01  # seconds, at the joints of sounds that follow each other
BACKGROUND = (-15.0, -6.0)  # dB, the level of a sound in the background
PEAK = 0.9
TEMPLATES = {
    "sequence": ("{0}, followed by {1}", "{0} and then {1}", "{0}, then {1}", "{1} after {0}"),
    "together": ("{0} and {1}", "{0} together with {1}", "{0} with {1}", "{0} along with {1}"),
    "background": ("{0} with {1} in the background", "{0}, {1} in the distance", "{0} over {1}"),
    "three": ("{0}, followed by {1}, then {2}", "{0}, then {1} and finally {2}"),
}
"""The captions of mixtures by the way of mixing; in "three" all follow each other."""
WAYS = tuple(TEMPLATES)


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "default"] = "default"
    data: tuple[Path, ...] = ()
    """One or more prepared corpora; the tiny preset defaults to synthetic sounds."""
    clap: str | None = None
    """Folder or hub id of a CLAP model in transformers' layout. The tiny preset defaults to a
    stand-in without weights, which knows words by the timbre of captioned sounds."""
    captions: Path | None = None
    """Text file of further captions to choose from, one per line."""
    out: Path = Path("runs/enhanced")
    """Folder for the new corpus."""
    keep: int = 2
    """Captions to keep per sound; the best is first, the others are paraphrases."""
    neighbours: int = 5
    """Captioned sounds that vote for their captions."""
    least_match: float = 0.2
    """Minimum cosine of a sound and a new caption; a sound that none fits is left out."""
    mixtures: float = 1.0
    """New sounds per captioned sound."""
    longest: float = 20.0
    """Maximum duration of a mixture in seconds; longer sounds are cut."""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, keep=1, neighbours=1)
        if not (self.mixtures >= 0 and self.longest > 0):
            raise ValueError(
                "mixtures must be at least 0 and longest above 0, got "
                f"{self.mixtures} and {self.longest}."
            )
        if not -1 <= self.least_match <= 1:
            raise ValueError(f"least_match must be from -1 to 1, got {self.least_match}.")


PRESETS = {"default": Config(), "tiny": Config(preset="tiny", least_match=0.5)}


class Space(Protocol):
    """A joint embedding; all vectors have length 1."""

    @property
    def sample_rate(self) -> int: ...

    def __call__(self, samples: Tensor) -> Tensor: ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(kw_only=True, eq=False)
class Item:
    """A sound with its captions, if it has any, and its vector [D]."""

    cut: Cut
    split: Split
    captions: list[str]
    vector: Tensor


def main(config: Config) -> dict[Split, int]:
    """Writes the corpus and returns the number of sounds in each split."""
    import_lhotse()
    folders = config.data or (make_up_corpus(config),)
    cuts = [
        (cut, split) for folder in folders for split in SPLITS for cut in read_cuts(folder, split)
    ]
    if not cuts:
        raise ValueError(f"There are no sounds in {', '.join(map(str, folders))}.")
    captions_of = {id(cut): captions_in(cut) for cut, _ in cuts}
    bank = sorted({text for texts in captions_of.values() for text in texts} | read_bank(config))
    if not bank:
        raise ValueError("There are no captions to choose from. Pass a file of them as --captions.")
    space = new_space(config, cuts, captions_of)
    items = [
        Item(cut=cut, split=split, captions=captions_of[id(cut)], vector=embed(space, cut))
        for cut, split in tqdm(cuts, desc="embedding", unit="sound")
    ]
    found = distil(items, bank, space.embed_texts(bank), config)
    captioned = [item for item in items if item.captions]
    made = reprogram(captioned, config)
    held_out = {group_of(item.cut) for item in captioned if item.split == "held_out"}
    cuts_out = [*(with_captions(item) for item in captioned), *made]
    counts = write_cuts(config.out, cuts_out, held_out=held_out)
    write_licences(config.out, licences(folders), note=NOTE)
    tqdm.write(
        f"{config.out}: {len(captioned) - found:,} captioned sounds, {found:,} with new captions, "
        f"{len(items) - len(captioned):,} left out and {len(made):,} mixtures.\n"
        f"Next: python recipes/tokenize_dataset.py --data {config.out}"
    )
    return counts


def distil(items: Sequence[Item], bank: Sequence[str], texts: Tensor, config: Config) -> int:
    """Gives captions to sounds that have none; returns how many got some.

    Args:
        texts: the vectors [n, D] of the captions in the bank.
    """
    known = [item for item in items if item.captions and item.split == "train"]
    place = {text: i for i, text in enumerate(bank)}
    count = 0
    for item in items:
        if item.captions:
            continue
        match = texts @ item.vector  # [n]
        votes = match.clone()
        if known:
            similar = torch.stack([one.vector for one in known]) @ item.vector
            for i in similar.argsort(descending=True, stable=True)[: config.neighbours].tolist():
                for text in known[i].captions:
                    votes[place[text]] += similar[i] / config.neighbours
        best = votes.argsort(descending=True, stable=True)[: config.keep].tolist()
        item.captions = [bank[i] for i in best if match[i] >= config.least_match]
        count += bool(item.captions)
    return count


def reprogram(items: Sequence[Item], config: Config) -> list[Cut]:
    """Cuts of new sounds, each of sounds of one split."""
    made = []
    for split in SPLITS:
        part = sorted((x for x in items if x.split == split), key=lambda x: str(x.cut.id))
        numbers = range(round(config.mixtures * len(part)) if len(part) > 1 else 0)
        for number in tqdm(numbers, desc=f"mixing {split}", unit="sound"):
            made.append(mixture(part, split, number, config))
    return made


def mixture(part: Sequence[Item], split: Split, number: int, config: Config) -> Cut:
    """A new sound: a function of the seed, the split, its number and the sounds."""
    random = np.random.default_rng([config.seed, SPLITS.index(split), number])
    members = different(part, 3, random)
    ways = [way for way in WAYS if len(members) == 3 or way != "three"]
    way = ways[int(random.integers(len(ways)))]
    members = members if way == "three" else members[:2]
    captions = [str(random.choice(one.captions)) for one in members]
    rate = max(int(one.cut.sampling_rate) for one in members)
    sounds = [read_cut_audio(x.cut, sample_rate=rate, num_channels=1).samples for x in members]
    level = float(random.uniform(*BACKGROUND)) if way == "background" else 0.0
    most = round(config.longest * rate)
    if way in ("sequence", "three"):
        samples = in_sequence(
            [x[:, : most // len(sounds)] for x in sounds], fade=round(FADE * rate)
        )
    else:
        samples = at_once([x[:, :most] for x in sounds], level=level)
    template = str(random.choice(TEMPLATES[way]))
    name = f"mixture-{split}-{number:06}"
    path = config.out / "audio" / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, samples, rate)
    return make_cut(
        name,
        path,
        info=audio_info(path),
        conditions={"text": [describe(template, captions)]},
        group=group_of(members[0].cut),
    )


def different(part: Sequence[Item], count: int, random: np.random.Generator) -> list[Item]:
    """Up to this many sounds, at least two, in random order; without equal captions if possible."""
    shuffled = [part[int(i)] for i in random.permutation(len(part))]
    chosen: list[Item] = []
    for item in shuffled:
        if len(chosen) < count and not any({*x.captions} & {*item.captions} for x in chosen):
            chosen.append(item)
    return chosen if len(chosen) > 1 else shuffled[:2]


def describe(template: str, captions: Sequence[str]) -> str:
    """The caption of a mixture; captions inside it begin in lower case, unless they are names."""
    plain = [text.strip().rstrip(".") for text in captions]
    inner = [
        text[:1].lower() + text[1:] if re.match(r"(A|An|The|Some|Someone|People)\b", text) else text
        for text in plain
    ]
    return template.format(*inner)


def in_sequence(sounds: Sequence[Tensor], *, fade: int) -> Tensor:
    """Sounds [1, N] after each other, faded where they meet: [1, N], peak at most 0.9."""
    made = []
    for number, sound in enumerate(sounds):
        sound = _even(sound)
        n = min(fade, sound.shape[1] // 2)
        ramp = torch.linspace(0, 1, n)
        sound = sound.clone()
        if number > 0 and n:
            sound[:, :n] *= ramp
        if number + 1 < len(sounds) and n:
            sound[:, -n:] *= ramp.flip(0)
        made.append(sound)
    return _limited(torch.cat(made, dim=1))


def at_once(sounds: Sequence[Tensor], *, level: float) -> Tensor:
    """Two sounds [1, N] at once, the second at a level in dB below the first: [1, N]."""
    first, second = (_even(sound) for sound in sounds)
    if level < 0 and second.shape[1] < first.shape[1]:  # a background lasts
        repeats = -(-first.shape[1] // second.shape[1])
        second = second.repeat(1, repeats)[:, : first.shape[1]]
    length = max(first.shape[1], second.shape[1])
    padded = [F.pad(x, (0, length - x.shape[1])) for x in (first, 10 ** (level / 20) * second)]
    return _limited(padded[0] + padded[1])


def _even(sound: Tensor) -> Tensor:
    """A sound at a root mean square of 0.1, so that none drowns in a mixture."""
    return 0.1 * sound / sound.square().mean().sqrt().clamp(min=1e-4)


def _limited(sound: Tensor) -> Tensor:
    return sound * min(1.0, PEAK / max(float(sound.abs().max()), 1e-9))


NOTE = (
    "Captions of sounds that had none were chosen by a network, and mixtures in audio/ are made of "
    "the sounds listed here: the licences of all of them apply."
)


def licences(folders: Sequence[Path]) -> list[Licence]:
    """A row for each corpus, whose own table has the details."""
    return [
        Licence(what=folder.name, author="", licence=f"see {folder / 'LICENCES.md'}")
        for folder in folders
    ]


def captions_in(cut: Cut) -> list[str]:
    texts = conditions_of(cut).get("text")
    return list(texts) if isinstance(texts, list) else []


def with_captions(item: Item) -> Cut:
    """The cut of a sound with its captions."""
    found = conditions_of(item.cut)
    if found.get("text"):
        return item.cut
    cut = item.cut
    info = AudioInfo(
        sample_rate=cut.sampling_rate,
        num_samples=cut.num_samples,
        num_channels=cut.num_channels,
        format="",
    )
    described = make_cut(cut.id, "", info=info, conditions={"text": item.captions, **found})
    copied = copy(cut)
    copied.supervisions = described.supervisions
    return copied


def embed(space: Space, cut: Cut) -> Tensor:
    """The vector [D] of a sound."""
    audio = read_cut_audio(cut, sample_rate=space.sample_rate, num_channels=1)
    return F.normalize(space(audio.samples).mean(dim=0), dim=-1)


def read_bank(config: Config) -> set[str]:
    """The lines of the file of captions."""
    if config.captions is None:
        return set()
    try:
        lines = config.captions.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Could not read {config.captions} as UTF-8 text.") from error
    return {line.strip() for line in lines if line.strip()}


def new_space(
    config: Config, cuts: Sequence[tuple[Cut, Split]], captions_of: dict[int, list[str]]
) -> Space:
    if config.clap is not None:
        return Clap(config.clap, device=config.device)
    if config.preset != "tiny":
        raise ValueError(
            f"The preset {config.preset!r} needs --clap with the folder or hub id of a CLAP model, "
            "such as laion/larger_clap_general."
        )
    return Timbres([(cut, captions_of[id(cut)]) for cut, split in cuts if split == "train"])


class Timbres:
    """A stand-in for CLAP: sounds by their mel bands, words by the captioned sounds they are of."""

    def __init__(self, examples: Sequence[tuple[Cut, Sequence[str]]]) -> None:
        self._statistics = LogMelStatistics()
        self.sample_rate = self._statistics.sample_rate
        known: dict[str, list[Tensor]] = {}
        for cut, captions in examples:
            vector = embed(self, cut) if captions else None
            for word in sorted({word for text in captions for word in text.split()}):
                assert vector is not None
                known.setdefault(word, []).append(vector)
        self._words = {
            word: F.normalize(torch.stack(vectors).mean(dim=0), dim=-1)
            for word, vectors in known.items()
        }

    def __call__(self, samples: Tensor) -> Tensor:
        found = self._statistics(samples)
        return F.normalize(found - found.mean(dim=1, keepdim=True), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        nothing = torch.zeros(64)
        rows = [
            torch.stack([nothing, *(self._words.get(word, nothing) for word in text.split())])
            for text in texts
        ]
        return F.normalize(torch.stack([row.sum(dim=0) for row in rows]), dim=-1)


def make_up_corpus(config: Config) -> Path:
    """Synthetic sounds, half of them with captions, as a corpus in OUT/sounds."""
    if config.preset != "tiny":
        raise ValueError(
            f"The preset {config.preset!r} needs data. Pass --data with a prepared corpus "
            "(recipes/prepare_folder.py)."
        )
    folder = config.out / "sounds"
    cuts = []
    for number, clip in enumerate(
        synthetic_clips(num_clips=24, seconds=2.0, sample_rate=16_000, seed=config.seed)
    ):
        path = folder / f"{clip.name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, torch.tensor(clip.samples)[None] / FULL_SCALE, 16_000)
        texts: dict[str, Any] = {"text": CAPTIONS[clip.kind]} if number < 12 else {}
        cuts.append(make_cut(clip.name, path, info=audio_info(path), conditions=texts))
    write_cuts(folder, cuts, held_out=0.25)
    write_licences(folder, [Licence(what="synthetic sounds", author="", licence="CC0-1.0")])
    return folder


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
