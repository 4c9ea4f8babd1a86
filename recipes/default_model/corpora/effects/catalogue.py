"""All effects by name: plans, renders and captions of the numbered clips of a corpus.

plan = plan_effect(7, seed=0)                      # what it is: a matter of microseconds
samples = render_effect(plan, sample_rate=24_000)  # [N]
captions = effect_captions(plan, count=4)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpora.captions import with_article, write_captions
from corpora.clip_files import is_whole, write_clip
from corpora.effects import alarms, creatures, impacts, machines, nature
from corpora.effects.effect import OUTDOORS, Effect
from corpora.effects.rooms import from_afar, in_room
from corpora.effects.wordings import LEAD_IN, WORDINGS
from corpora.signals import at_level, band, noise

EFFECTS: dict[str, Effect] = {
    **alarms.EFFECTS,
    **impacts.EFFECTS,
    **nature.EFFECTS,
    **machines.EFFECTS,
    **creatures.EFFECTS,
}

# Decibels of the loudest 50 ms below full scale. What is distant is not called quiet.
LEVELS = {"": (-22.0, -15.0), "quiet": (-36.0, -30.0), "loud": (-11.0, -8.0)}
DISTANT_LEVELS = (-30.0, -24.0)


@dataclass(frozen=True, kw_only=True)
class EffectPlan:
    """One clip before it is made.

    Attributes:
        words: the word for each attribute, `place` and `level` among them; "" is not worth one.
        values: the number for each attribute of the effect.
    """

    label: str
    seconds: float
    words: dict[str, str]
    values: dict[str, float]
    decibels: float
    seed: int
    number: int


def plan_effect(number: int, *, seed: int) -> EffectPlan:
    """Decides what clip `number` is; the classes take turns, everything else is drawn."""
    rng = np.random.default_rng([seed, number, 0])
    label = list(EFFECTS)[number % len(EFFECTS)]
    effect = EFFECTS[label]
    words, values = {}, {}
    for attribute, ranges in effect.attributes.items():
        word = list(ranges)[rng.integers(len(ranges))]
        words[attribute], values[attribute] = word, float(rng.uniform(*ranges[word]))
    elsewhere = effect.places and rng.random() < 0.38
    words["place"] = str(rng.choice(effect.places)) if elsewhere else ""
    level = "" if words["place"] else str(rng.choice(list(LEVELS), p=[0.6, 0.2, 0.2]))
    words["level"] = level
    decibels = DISTANT_LEVELS if words["place"] == "distant" else LEVELS[level]
    return EffectPlan(
        label=label,
        seconds=round(float(rng.uniform(*effect.seconds)), 2),
        words=words,
        values=values,
        decibels=float(rng.uniform(*decibels)),
        seed=seed,
        number=number,
    )


def render_effect(plan: EffectPlan, *, sample_rate: int) -> np.ndarray:
    """Makes the sound: [N], float32, within -1..1, the same at each call."""
    if sample_rate < 8_000:
        raise ValueError(f"Got a sample rate of {sample_rate} Hz; effects need at least 8000 Hz.")
    rng = np.random.default_rng([plan.seed, plan.number, 1])
    effect = EFFECTS[plan.label]
    sound = effect.make(plan.seconds, sample_rate=sample_rate, rng=rng, **plan.values)
    sound = sound / max(float(np.abs(sound).max()), 1e-12)
    place = plan.words["place"]
    if place in ("distant", "wall"):
        sound = from_afar(sound, cutoff=2_500 if place == "distant" else 700,
                          sample_rate=sample_rate)  # fmt: skip
    reverberation, wet = {
        "distant": (1.2, 0.5),
        "hall": (rng.uniform(1.6, 2.6), 0.5),
        "wall": (0.5, 0.8),
        "": (0.4, 0.02) if effect.places == OUTDOORS else (rng.uniform(0.25, 0.45), 0.05),
    }[place]
    sound = in_room(sound, reverberation=reverberation, wet=wet, sample_rate=sample_rate, rng=rng)
    # No place is silent: recordings of the real thing have some air in them.
    highest = 3_000 if effect.places == OUTDOORS else 900
    air = noise(plan.seconds, band(60, highest, order=1), sample_rate=sample_rate, rng=rng)
    sound += 10 ** (rng.uniform(-46, -34) / 20) * float(np.abs(sound).max()) * air
    return at_level(sound, decibels=plan.decibels, fade=0.01, sample_rate=sample_rate)


def write_effect(path: Path, plan: EffectPlan, *, sample_rate: int) -> None:
    """Writes a clip unless a valid one exists; recipes run it in several processes."""
    if not is_whole(path, seconds=plan.seconds, sample_rate=sample_rate):
        write_clip(path, render_effect(plan, sample_rate=sample_rate), sample_rate)


def effect_captions(plan: EffectPlan, *, count: int, unseen: bool = False) -> list[str]:
    """Distinct captions of a clip, the most specific one first; `unseen` ones are for tests."""
    rng = np.random.default_rng([plan.seed, plan.number, 3 if unseen else 2])
    wording = WORDINGS[plan.label]
    bodies = write_captions(wording, plan.words, count=count, rng=rng, unseen=unseen)
    return [_with_surroundings(body, plan, rng) for body in bodies]


def _with_surroundings(body: str, plan: EffectPlan, rng: np.random.Generator) -> str:
    place, level = plan.words["place"], plan.words["level"]
    if place and rng.random() < 0.3:
        return LEAD_IN[place] + body
    phrases = WORDINGS[plan.label].phrases
    ways = phrases["place"][place] if place else phrases["level"][level] if level else ("",)
    said = ways[rng.integers(len(ways))]
    return with_article(f"{body}, {said}" if level else f"{body} {said}".strip())
