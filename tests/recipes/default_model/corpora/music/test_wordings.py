"""Captions of pieces tell what the score has, in several ways."""

import re

from corpora.captions import slots
from corpora.music.scores import compose
from corpora.music.wordings import (
    PHRASES,
    RHYTHM,
    SOLO,
    TOGETHER,
    describe_score,
    score_captions,
)

SCORES = [compose(number, seed=2) for number in range(210)]


def test_the_first_caption_tells_tempo_key_and_mood() -> None:
    for score in SCORES:
        first, *rest = score_captions(score, count=4)
        assert len({first, *rest}) == 4
        assert f"at {score.tempo} b" in first
        assert any(mood in first for mood in PHRASES["mood"][score.mood])
        if score.instruments != ["drums"]:
            assert score.harmony.key in first


def test_captions_read_well() -> None:
    for score in SCORES:
        for caption in score_captions(score, count=4) + score_captions(score, count=2, unseen=True):
            assert caption == " ".join(caption.split())
            assert not set("{}[]") & set(caption)
            assert ",," not in caption
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption)


def test_all_players_are_named_in_the_first_caption() -> None:
    for score in SCORES:
        first = score_captions(score, count=1)[0]
        for name in score.instruments[1:]:
            assert name in first


def test_unseen_captions_are_not_among_those_to_train_on() -> None:
    train = {caption for score in SCORES for caption in score_captions(score, count=4)}
    unseen = {
        caption for score in SCORES for caption in score_captions(score, count=2, unseen=True)
    }
    assert not train & unseen
    for wording in (SOLO, TOGETHER, RHYTHM):
        assert not set(wording.templates) & set(wording.unseen)
        assert all(slots(template) for template in wording.templates)


def test_attributes_are_those_of_the_score() -> None:
    found = describe_score(SCORES[0])
    assert found["label"] == SCORES[0].parts[0].instrument
    assert found["tempo"] == SCORES[0].tempo
    assert found["key"] == SCORES[0].harmony.key
    drums = next(score for score in SCORES if score.instruments == ["drums"])
    assert "key" not in describe_score(drums)
