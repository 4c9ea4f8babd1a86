"""Collects short English sentences about things that make sounds, to train a text encoder on.

    python recipes/default_model/prepare_sentences.py --preset tiny  # a second, a few words
    python recipes/default_model/prepare_sentences.py --wordnet wordnet/ --corpora runs/effects

`--wordnet` is a folder with the data files of WordNet 3.0, as in Debian's package wordnet-base; its
licence allows any use that keeps its notice. Its definitions and examples are used as sentences.
Its nouns and verbs fill templates ("a kettle whistles in the distance"), common words and words
for sounds more often than others. `--corpora` are prepared corpora: the captions of their training
splits are used alone and in pairs ("rain while a dog barks"). `--out` receives one text file, a
sentence per line in random order, for recipes/train_text_encoder.py. It takes ten seconds and
500 MB.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from audio_tokenizers.atomic import replacing
from corpora.captions import with_article
from lm_audio.cli.recipe import run_recipe
from lm_audio.data.manifest import conditions_of, read_cuts

SOUNDS = re.compile(
    r"\b(sound\w*|nois\w+|loud\w*|cry|cries|utter\w*|music\w*|sing\w*|ring\w*|voice|vocal\w*|"
    r"whistl\w+|bell|drum\w*|instrument|engine|alarm|explo\w+|hear\w*|strik\w+|blow\w*|tone|roar\w*)\b"
)
"""Matches definitions of words for sounds and of things that make sounds."""
SOUNDING_KINDS = {4, 5, 6, 8, 10, 11, 17, 18, 19}
"""Lexicographer files of nouns: acts, animals, artefacts, bodies, communication, events, objects,
persons, phenomena."""
TEMPLATES = (
    "a {noun}", "the sound of a {noun}", "a {noun} {does}", "a {noun} is {doing}", "{doing} {noun}",
    "a {adjective} {noun}", "a {adjective} {noun} {does}", "a {noun} {doing} in the distance",
    "the {doing} of a {noun}", "a {noun} and a {noun}", "a {noun} {does} and a {noun} {does}",
    "a {noun} {does} while a {noun} is {doing}", "two {adjective} sounds of a {noun}",
    "a {noun} {does} loudly", "somebody is {doing} a {noun}", "people {doing} near a {noun}",
    "a {noun} is heard far away", "a {noun} in a {noun}", "a recording of a {noun} that {does}",
    "{doing}", "{adjective} {doing} of a {noun}", "music for a {noun}", "a {noun} starts {doing}",
)  # fmt: skip
PAIRS = (
    "{} and {}", "{} while {}", "{} followed by {}", "{}, then {}", "{} with {} in the background",
    "first {}, after that {}",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "default"] = "default"
    wordnet: Path | None = None
    """Folder of WordNet's data files; the tiny preset defaults to a few built-in words."""
    corpora: tuple[Path, ...] = ()
    """Prepared corpora whose training captions to use."""
    out: Path = Path("runs/sentences.txt")
    definitions: int = 45_000
    """Maximum number of definitions and examples from WordNet."""
    templates: int = 55_000
    """Number of sentences from templates."""
    pairs: int = 20_000
    """Number of sentences that join two captions."""
    longest: int = 20
    """Maximum number of words in a sentence from WordNet."""
    seed: int = 0


PRESETS = {
    "tiny": Config(preset="tiny", definitions=50, templates=300, pairs=50),
    "default": Config(),
}


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words for templates by slot, and whole sentences."""

    nouns: Sequence[str]
    verbs: Sequence[str]
    adjectives: Sequence[str]
    irregular: dict[str, str]  # present participles that no rule gives
    sentences: Sequence[str]


FEW_WORDS = Words(
    nouns=["dog", "cat", "bell", "drum", "door", "horn", "owl", "crowd", "violin", "kettle"],
    verbs=["bark", "meow", "ring", "beat", "slam", "honk", "cry", "cheer", "play", "tie", "make"],
    adjectives=["loud", "soft", "distant", "deep"],
    irregular={},
    sentences=["a device that rings when it is struck", "the cry of an animal"],
)


def main(config: Config) -> list[str]:
    """Writes the sentences and returns them."""
    if config.wordnet is None and config.preset != "tiny":
        raise ValueError(
            "No WordNet; pass the folder of its data files as --wordnet. Debian has them in the "
            "package wordnet-base."
        )
    words = FEW_WORDS if config.wordnet is None else read_wordnet(config.wordnet, config.longest)
    rng = np.random.default_rng(config.seed)
    captions = [text for folder in config.corpora for text in captions_of(folder)]
    found = dict.fromkeys(captions)
    found |= dict.fromkeys(drawn(words.sentences, config.definitions, rng))
    found |= dict.fromkeys(filled(words, config.templates, rng))
    if captions:
        found |= dict.fromkeys(paired(captions, config.pairs, rng))
    sentences = drawn(list(found), len(found), rng)
    with replacing(config.out) as path:
        path.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    print(
        f"Wrote {len(sentences):,} sentences to {config.out}\n"
        f"Next: recipes/train_text_encoder.py --sentences {config.out}"
    )
    return sentences


def read_wordnet(folder: Path, longest: int) -> Words:
    """The words and sentences of WordNet; common words and words for sounds are repeated."""
    counts = lines_of(folder / "cntlist.rev")
    common = {line.split("%")[0].replace("_", " ") for line in counts}
    words: dict[str, list[str]] = {"noun": [], "verb": [], "adj": []}
    sentences: list[str] = []
    for part, lemmas in words.items():
        for kind, synonyms, gloss in read_synsets(folder / f"data.{part}"):
            definition, *examples = re.split(r';\s*(?=")', gloss)
            texts = [d for d in definition.split(";") if len(d.split()) > 2] + examples
            plain = [w for w in synonyms if re.fullmatch(r"[a-z]{2,}( [a-z]{2,})?", w)]
            sounds = SOUNDS.search(definition) is not None
            if part != "noun" or kind in SOUNDING_KINDS:
                for lemma in plain:
                    lemmas += [lemma] * (4 if sounds else 1) * (4 if lemma in common else 1)
            if plain:  # otherwise a proper or a Latin name
                clean = (text.strip(' ";:') for text in texts)
                sentences += [t for t in clean if 1 < len(t.split()) <= longest]
    exceptions = lines_of(folder / "verb.exc")
    irregular = {base: form for form, base, *_ in map(str.split, exceptions) if form[-3:] == "ing"}
    return Words(
        nouns=words["noun"],
        verbs=[verb for verb in words["verb"] if " " not in verb],
        adjectives=[word for word in words["adj"] if " " not in word],
        irregular=irregular,
        sentences=list(dict.fromkeys(sentences)),
    )


def read_synsets(path: Path) -> Iterator[tuple[int, list[str], str]]:
    """The number of the lexicographer file, the synonyms and the gloss of each synset."""
    for line in lines_of(path):
        if line.startswith("  "):  # the licence
            continue
        entry, gloss = line.split(" | ", 1)
        _, kind, _, count, *fields = entry.split()
        synonyms = fields[: 2 * int(count, 16) : 2]
        yield int(kind), [re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in synonyms], gloss


def lines_of(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; pass the folder of WordNet 3.0's data files.")
    return path.read_text(encoding="utf-8").splitlines()


def captions_of(folder: Path) -> Iterator[str]:
    for cut in read_cuts(folder, "train"):
        text = conditions_of(cut).get("text", [])
        yield from text if isinstance(text, list) else [str(text)]


def drawn(texts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [texts[i] for i in rng.permutation(len(texts))[:count]]


def one(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def filled(words: Words, count: int, rng: np.random.Generator) -> Iterator[str]:
    """Yields random templates with their slots filled."""

    def fill(slot: re.Match[str]) -> str:
        if slot[1] == "noun":
            return one(words.nouns, rng)
        if slot[1] == "adjective":
            return one(words.adjectives, rng)
        verb = one(words.verbs, rng)
        return third_person(verb) if slot[1] == "does" else participle(verb, words.irregular)

    for _ in range(count):
        yield with_article(re.sub(r"{(\w+)}", fill, one(TEMPLATES, rng)))


def paired(captions: Sequence[str], count: int, rng: np.random.Generator) -> Iterator[str]:
    for _ in range(count):
        pair = one(captions, rng), one(captions, rng)
        yield one(PAIRS, rng).format(*pair)


def third_person(verb: str) -> str:
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + ("es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else "s")


def participle(verb: str, irregular: dict[str, str]) -> str:
    if verb in irregular:
        return irregular[verb]
    if re.search(r"ie$", verb):
        return verb[:-2] + "ying"
    return re.sub(r"(?<=[^eoy])e$", "", verb) + "ing"


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
