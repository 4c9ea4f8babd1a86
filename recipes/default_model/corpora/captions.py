"""Captions from templates: paraphrases for training, and others that are kept for tests.

A template has a slot in braces for each attribute that it mentions: "a {speed} train {horn}". A
phrase for the attribute's word fills the slot; an empty word leaves it out, together with the
brackets around it: "a bird sings[ with a {pitch} voice]".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

import numpy as np

Phrases = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Attribute -> word -> phrases. A word that is not listed stands for itself."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Caption templates of a class of sounds; `unseen` templates are never trained on."""

    templates: tuple[str, ...]
    unseen: tuple[str, ...]
    phrases: Phrases


def write_captions(
    wording: Wording,
    words: Mapping[str, str],
    *,
    count: int,
    rng: np.random.Generator,
    unseen: bool = False,
) -> list[str]:
    """Writes up to `count` distinct captions; the first mentions as many attributes as possible.

    Args:
        words: the word of each attribute; a missing or empty word leaves its slot empty.
    """
    templates = wording.unseen if unseen else wording.templates
    told = [sum(bool(words.get(slot)) for slot in slots(template)) for template in templates]
    best = [t for t, number in zip(templates, told, strict=True) if number == max(told)]
    found = [_filled(best[rng.integers(len(best))], wording.phrases, words, rng)]
    order = rng.permutation(len(templates))
    for attempt in range(8 * count):
        caption = _filled(templates[order[attempt % len(order)]], wording.phrases, words, rng)
        if caption not in found:
            found.append(caption)
    return found[:count]


def slots(template: str) -> set[str]:
    """The attributes that a template mentions."""
    return {field for _, field, _, _ in Formatter().parse(template) if field}


def with_article(text: str) -> str:
    """Turns "a" into "an" before vowel sounds."""
    return re.sub(r"\b([Aa]) (?=[aeiou])(?!one\b|uni|use)", r"\1n ", text)


def _filled(
    template: str, phrases: Phrases, words: Mapping[str, str], rng: np.random.Generator
) -> str:
    said = {}
    for slot in sorted(slots(template)):  # in a fixed order: a set has none
        word = words.get(slot, "")
        ways = phrases.get(slot, {}).get(word, (word,))
        said[slot] = ways[rng.integers(len(ways))]
    kept = re.sub(
        r"\[([^]]*)\]",
        lambda part: part[1] if all(said[slot] for slot in slots(part[1])) else "",
        template,
    )
    text = re.sub(r"\s+", " ", kept.format(**said))
    return with_article(re.sub(r"\s+,", ",", text).strip())
