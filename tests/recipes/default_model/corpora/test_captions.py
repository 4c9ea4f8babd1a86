"""Captions say what the words say, differently each time, and keep some wordings for tests."""

import numpy as np
import pytest

from corpora.captions import Wording, slots, with_article, write_captions

WORDING = Wording(
    templates=("a {speed} train[ with a {horn} horn]", "a train"),
    unseen=("a {speed} railway",),
    phrases={"speed": {"slow": ("slow", "idle")}, "horn": {"loud": ("loud",)}},
)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_first_caption_tells_every_attribute() -> None:
    for seed in range(20):
        first, *rest = write_captions(
            WORDING, {"speed": "slow", "horn": "loud"}, count=3, rng=np.random.default_rng(seed)
        )
        assert first in {"a slow train with a loud horn", "an idle train with a loud horn"}
        assert len({first, *rest}) == 3


def test_an_empty_word_leaves_its_slot_and_its_bracket_out() -> None:
    captions = write_captions(WORDING, {"speed": "", "horn": ""}, count=3, rng=generator())
    assert captions == ["a train"]


def test_a_word_without_phrases_is_said_as_it_is() -> None:
    captions = write_captions(WORDING, {"speed": "odd"}, count=1, rng=generator(), unseen=True)
    assert captions == ["an odd railway"]


def test_unseen_captions_share_no_template_with_the_others() -> None:
    unseen = write_captions(WORDING, {"speed": "slow"}, count=2, rng=generator(), unseen=True)
    assert set(unseen) == {"a slow railway", "an idle railway"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a owl", "an owl"), ("a few", "a few"), ("A alarm", "An alarm"), ("a one", "a one")],
)
def test_the_article_suits_the_word(text: str, expected: str) -> None:
    assert with_article(text) == expected


def test_slots_are_found_inside_of_brackets_too() -> None:
    assert slots("a {kind} bell[, {speed}]") == {"kind", "speed"}
