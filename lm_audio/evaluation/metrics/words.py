"""Word and character errors between texts."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Errors:
    """The number of edits from the reference to the transcript, and the reference length."""

    edits: int
    length: int


def normalize_text(text: str) -> str:
    """Lower case, without accents and punctuation, one space between words.

    A plain rule for all languages with an alphabet; numbers stay as they are written. Whisper's
    English normaliser also spells numbers and contractions: values are comparable by one rule only.
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\w)['\u2019](?=\w)", "", plain)  # don't -> dont
    return " ".join(re.findall(r"[^\W_]+", plain))


def edit_distance(first: Sequence[object], second: Sequence[object]) -> int:
    """The minimum number of insertions, deletions and substitutions between two sequences."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def word_errors(reference: str, transcript: str) -> Errors:
    """The errors of a transcript against the truth, both normalised first."""
    truth, answer = normalize_text(reference).split(), normalize_text(transcript).split()
    return Errors(edits=edit_distance(truth, answer), length=len(truth))


def character_errors(reference: str, transcript: str) -> Errors:
    """As `word_errors`, of characters; spaces count as jiwer counts them."""
    truth, answer = normalize_text(reference), normalize_text(transcript)
    return Errors(edits=edit_distance(truth, answer), length=len(truth))
