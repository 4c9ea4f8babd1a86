"""Every effect sounds, is what its caption says, and is the same each time."""

import dataclasses
import re

import numpy as np
import pytest

from corpora.captions import slots
from corpora.effects.alarms import alarm_beeps
from corpora.effects.catalogue import (
    EFFECTS,
    effect_captions,
    plan_effect,
    render_effect,
)
from corpora.effects.impacts import heartbeat, knocking
from corpora.effects.machines import passing_car
from corpora.effects.wordings import WORDINGS
from corpora.signals import num_samples


def onsets(sound: np.ndarray, *, sample_rate: int, apart: float) -> int:
    """How often the sound starts anew: rises to a third of its peak after a silence."""
    block = sample_rate // 100
    loud = np.abs(sound[: len(sound) // block * block]).reshape(-1, block).max(axis=1)
    active = np.flatnonzero(loud > loud.max() / 3)
    return 1 + int((np.diff(active) > apart * 100).sum())


@pytest.mark.parametrize("number", range(len(EFFECTS)), ids=list(EFFECTS))
def test_each_effect_sounds_at_any_rate_within_full_scale(number: int) -> None:
    plan = dataclasses.replace(plan_effect(number, seed=1), seconds=2.5)
    for sample_rate in (8_000, 22_050):
        sound = render_effect(plan, sample_rate=sample_rate)
        assert sound.shape == (num_samples(2.5, sample_rate),)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert 0.005 < np.abs(sound).max() <= 0.95


def test_a_clip_is_the_same_each_time_and_another_with_another_seed() -> None:
    plan = plan_effect(4, seed=3)
    first, second = (render_effect(plan, sample_rate=8_000) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert effect_captions(plan, count=3) == effect_captions(plan_effect(4, seed=3), count=3)
    other = plan_effect(4, seed=4)
    assert other.label == plan.label
    assert (other.values, other.seconds) != (plan.values, plan.seconds)


def test_clips_of_one_class_differ() -> None:
    plans = [plan_effect(number * len(EFFECTS), seed=0) for number in range(12)]
    assert len({plan.label for plan in plans}) == 1
    assert len({str(plan.values) for plan in plans}) > 6
    assert {plan.words["place"] for plan in plans} == {"", "distant"}


def test_numbers_lie_within_the_range_of_their_word() -> None:
    for number in range(200):
        plan = plan_effect(number, seed=0)
        effect = EFFECTS[plan.label]
        assert effect.seconds[0] <= plan.seconds <= effect.seconds[1]
        assert set(plan.values) == set(effect.attributes)
        for attribute, value in plan.values.items():
            low, high = effect.attributes[attribute][plan.words[attribute]]
            assert low <= value <= high


def test_the_templates_of_each_effect_tell_all_its_attributes_and_no_others() -> None:
    assert set(WORDINGS) == set(EFFECTS)
    for label, wording in WORDINGS.items():
        attributes = set(EFFECTS[label].attributes)
        assert len(wording.templates) >= 4
        assert len(wording.unseen) >= 2
        for template in wording.templates + wording.unseen:
            assert slots(template) <= attributes, template
        assert all(slots(template) == attributes for template in wording.templates), label


def test_captions_tell_the_words_and_read_well() -> None:
    for number in range(400):
        plan = plan_effect(number, seed=0)
        captions = effect_captions(plan, count=4) + effect_captions(plan, count=1, unseen=True)
        assert len(captions) == len(set(captions)) >= 3, captions
        for caption in captions:
            assert caption == " ".join(caption.split())
            assert not set("{}[]") & set(caption)
            assert ",," not in caption
            assert " ," not in caption
            assert not re.search(r"\ba [aeio]|\ban [^aeiou]", caption), caption
            assert caption[0].islower() or caption[0].isdigit()
        said = WORDINGS[plan.label].phrases
        for attribute, word in plan.words.items():
            if word:
                ways = said.get(attribute, {}).get(word, (word,))
                assert any(way in captions[0] for way in ways) or attribute == "place"


def test_unseen_captions_are_not_among_those_to_train_on() -> None:
    train, unseen = set(), set()
    for number in range(300):
        plan = plan_effect(number, seed=0)
        train.update(effect_captions(plan, count=4))
        unseen.update(effect_captions(plan, count=1, unseen=True))
    assert not train & unseen


@pytest.mark.parametrize("count", [2, 3, 4])
def test_there_are_as_many_knocks_as_asked_for(count: int) -> None:
    rng = np.random.default_rng(0)
    sound = knocking(1.3, sample_rate=8_000, rng=rng, count=count, strength=1.0)
    assert onsets(sound[: int(8_000 * (0.15 + 0.26 * count))], sample_rate=8_000, apart=0.08) == (
        count
    )


def test_a_heart_beats_at_its_rate() -> None:
    sound = heartbeat(6.0, sample_rate=4_000, rng=np.random.default_rng(0), speed=60)
    assert onsets(sound, sample_rate=4_000, apart=0.4) == 6


def test_beeps_have_their_pitch() -> None:
    sound = alarm_beeps(
        2.0, sample_rate=16_000, rng=np.random.default_rng(0), pitch=1_000, speed=2, group=1
    )
    spectrum = np.abs(np.fft.rfft(sound))
    assert spectrum.argmax() / 2 == pytest.approx(1_000, abs=3)
    assert onsets(sound, sample_rate=16_000, apart=0.1) == 4


def test_a_passing_car_is_loudest_in_the_middle() -> None:
    sound = passing_car(6.0, sample_rate=8_000, rng=np.random.default_rng(0), speed=20.0)
    loudness = np.square(sound).reshape(6, -1).mean(axis=1)
    assert loudness.argmax() in (2, 3)
    assert loudness.max() > 10 * max(loudness[0], loudness[-1])


def test_a_low_sample_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="Got a sample rate of 4000 Hz; effects need at least"):
        render_effect(plan_effect(0, seed=0), sample_rate=4_000)
