"""Word and character errors against jiwer."""

import numpy as np
import pytest

from lm_audio.evaluation.metrics.words import (
    character_errors,
    edit_distance,
    normalize_text,
    word_errors,
)
from lm_audio.evaluation.report import error_rate

WORDS = ["the", "cat", "sat", "on", "a", "mat", "rain"]


def sentences(seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 8))) for _ in range(30)]


def test_rates_are_those_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    said, heard = sentences(0), sentences(1)
    pairs = list(zip(said, heard, strict=True))
    words = error_rate([word_errors(*p) for p in pairs], metric="wer", implementation="")
    characters = error_rate([character_errors(*p) for p in pairs], metric="cer", implementation="")
    assert words.value == pytest.approx(jiwer.wer(said, heard))
    assert characters.value == pytest.approx(jiwer.cer(said, heard))
    assert words.interval is not None
    assert words.interval[0] < (words.value or 0) < words.interval[1]


def test_edits_have_their_closed_forms() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == edit_distance([1, 2], []) == 2
    assert edit_distance("abc", "abc") == 0


def test_punctuation_accents_and_case_do_not_count() -> None:
    assert normalize_text(" Don\u2019t  stop, CAFÉ: 2 dogs_bark! ") == "dont stop cafe 2 dogs bark"
    assert word_errors("It's a cat.", "its a  cat").edits == 0


def test_silence_instead_of_words_is_all_wrong() -> None:
    assert error_rate([word_errors("a b", "")], metric="wer", implementation="").value == 1.0
    with pytest.raises(ValueError, match="The reference transcripts contain no words"):
        error_rate([word_errors("...", "a")], metric="wer", implementation="")
