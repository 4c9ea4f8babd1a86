"""Voices: birds, an owl, crickets, bees, frogs, and people who whistle."""

import numpy as np

from corpora.effects.effect import OUTDOORS, Effect
from corpora.signals import (
    add,
    band,
    beats,
    filtered,
    glide,
    held,
    noise,
    num_samples,
    resonances,
    saw,
    times,
    tone,
    wander,
)


def birdsong(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, birds: float
) -> np.ndarray:
    """Each bird repeats a few syllables of its own: sweeps, trills and whistles."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for bird in range(int(birds)):
        base, level = pitch * rng.uniform(0.85, 1.2), 1.0 if bird == 0 else rng.uniform(0.2, 0.6)
        song = [
            syllable
            for _ in range(rng.integers(2, 4))
            for syllable in [_syllable(base, sample_rate=sample_rate, rng=rng)]
            * int(rng.integers(1, 6))
        ]
        gap, now = rng.uniform(0.03, 0.08), rng.uniform(0.1, 0.8)
        while now < seconds:
            for syllable in song:
                add(mix, level * syllable, at=num_samples(now, sample_rate))
                now += len(syllable) / sample_rate + gap
            now += rng.uniform(0.5, 1.3)
    air = noise(seconds, band(200, 3000, order=1), sample_rate=sample_rate, rng=rng)
    return mix + 0.004 * air


def _syllable(base: float, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    length = rng.uniform(0.05, 0.2)
    shape = rng.integers(3)
    if shape == 0:  # a sweep
        ends = base * rng.uniform(0.75, 1.35, 3)
        frequency = glide(zip((0, length / 2, length), ends, strict=True), length, sample_rate)
    elif shape == 1:  # a trill
        time = times(length, sample_rate)
        frequency = base * (1 + 0.14 * np.sin(2 * np.pi * rng.uniform(25, 60) * time))
    else:  # a whistle, slightly bent
        ends = base * rng.uniform(0.95, 1.05, 2)
        frequency = glide(zip((0, length), ends, strict=True), length, sample_rate)
    sound = tone(frequency, (1, 0.08, 0.03), sample_rate=sample_rate)
    return sound * np.sin(np.pi * np.arange(len(sound)) / len(sound)) ** 0.8


def owl(seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float) -> np.ndarray:
    """A long hoot, a pause, and a row of short ones that trembles."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    now = 0.2
    calls = [(0.5, 0.4), (0.3, 0.15), (0.3, 0.12), (0.7, 0.8)]
    while now < seconds:
        for length, pause in calls:
            length = length * rng.uniform(0.95, 1.05)
            points = [(0, pitch * 0.93), (0.25 * length, pitch), (length, pitch * 0.84)]
            hoot = tone(glide(points, length, sample_rate), (1, 0.15, 0.03),
                        sample_rate=sample_rate)  # fmt: skip
            tremble = rng.uniform(0.25, 0.45)
            time = np.arange(len(hoot)) / sample_rate
            hoot *= 1 - tremble * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(11, 17) * time))
            breath = noise(length, band(pitch * 0.7, pitch * 2), sample_rate=sample_rate, rng=rng)
            hoot += 0.12 * breath[: len(hoot)]
            hoot *= held(len(hoot), attack=0.09, release=0.15, sample_rate=sample_rate)
            add(mix, hoot, at=num_samples(now, sample_rate))
            now += length + pause
        now += rng.uniform(0.8, 1.5)
    return mix


def crickets(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, insects: float
) -> np.ndarray:
    """Files of teeth scraped by a wing: three or four pulses of one note, then silence."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for insect in range(int(insects)):
        pitch = min(rng.uniform(3900, 5000), 0.42 * sample_rate)
        pulse_length, pulses = rng.uniform(0.012, 0.018), rng.integers(3, 5)
        pulse = tone(np.full(num_samples(pulse_length, sample_rate), pitch), (1, 0.05),
                     sample_rate=sample_rate)  # fmt: skip
        pulse *= np.hanning(len(pulse))
        level = 1.0 if insect == 0 else rng.uniform(0.1, 0.6)
        period = rng.uniform(0.9, 1.1) / speed
        for start in beats(seconds, period, jitter=0.02, rng=rng, start=rng.uniform(0, period)):
            for number in range(pulses):
                at = num_samples(start + number * pulse_length * 1.8, sample_rate)
                add(mix, level * (0.6 + 0.15 * number) * pulse, at=at)
    night = noise(seconds, band(150, 1500, order=1), sample_rate=sample_rate, rng=rng)
    return mix + 0.01 * night


def bees(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, insects: float
) -> np.ndarray:
    """Wings that beat about 200 times a second, nearer and farther as they fly around."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for _ in range(int(insects)):
        sway = wander(seconds, rate=2.5, sample_rate=sample_rate, rng=rng)
        flutter = wander(seconds, rate=35, sample_rate=sample_rate, rng=rng)
        frequency = rng.uniform(190, 260) * (0.92 + 0.16 * sway + 0.09 * flutter)
        wings = tone(frequency, saw(28, tilt=0.6), sample_rate=sample_rate,
                     phase=rng.uniform(0, 6))  # fmt: skip
        near = wander(seconds, rate=0.8, sample_rate=sample_rate, rng=rng)
        mix += wings * (0.15 + near**2) * (0.8 + 0.2 * flutter)
    body = resonances([500, 1300, 3000], [300, 900, 2000], [1, 0.8, 0.7], floor=0.1)
    return filtered(mix, body, sample_rate=sample_rate)


def frogs(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, animals: float
) -> np.ndarray:
    """Croaks: trains of pulses through a throat's two resonances."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for animal in range(int(animals)):
        throat = pitch * rng.uniform(0.85, 1.15)
        level, rate = 1.0 if animal == 0 else rng.uniform(0.2, 0.6), rng.uniform(28, 45)
        for start in beats(seconds, rng.uniform(0.55, 0.9), jitter=0.12, rng=rng):
            length = rng.uniform(0.22, 0.35)
            pulses = tone(glide([(0, rate), (length, rate * 1.3)], length, sample_rate),
                          np.ones(60) * 0.1, sample_rate=sample_rate)  # fmt: skip
            hiss = noise(length, band(300, 6000), sample_rate=sample_rate, rng=rng)
            source = pulses + 0.15 * hiss * np.abs(pulses)
            croak = filtered(source, resonances([throat, throat * 2.4], [140, 300], [1, 0.7]),
                             sample_rate=sample_rate)  # fmt: skip
            croak *= np.sin(np.pi * np.arange(len(croak)) / len(croak)) ** 0.6
            add(mix, level * croak, at=num_samples(start, sample_rate))
    return mix


def whistling(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """A tune between pursed lips: a nearly pure tone that slides, with breath around it."""
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12])
    root, degree, now = rng.uniform(750, 1050), 4, 0.15
    points = [(0.0, root * 2 ** (scale[degree] / 12))]
    level = [(0.0, 0.0)]
    while now < seconds - 0.2:
        length = rng.choice([1, 1, 2, 3]) / speed
        degree = int(np.clip(degree + rng.integers(-2, 3), 0, 7))
        hertz = root * 2 ** (scale[degree] / 12)
        points += [(now + 0.03, hertz), (now + length - 0.03, hertz)]
        level += [(now, 0.25), (now + 0.04, 1.0), (now + length - 0.05, 0.8)]
        if rng.random() < 0.15:
            level += [(now + length, 0.0), (now + length + 0.25, 0.0)]
            now += 0.3
        now += length
    time = times(seconds, sample_rate)
    frequency = glide(points, seconds, sample_rate) * (1 + 0.006 * np.sin(2 * np.pi * 5.5 * time))
    when, how_loud = zip(*level, strict=True)
    shape = np.interp(time, when, how_loud)
    sound = tone(frequency, (1, 0.03, 0.01), sample_rate=sample_rate)
    breath = noise(seconds, band(900, 5000, order=1), sample_rate=sample_rate, rng=rng)
    return (sound + 0.03 * breath) * shape


def referee(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, count: float, length: float
) -> np.ndarray:
    """A whistle with a pea: three near notes, chopped as the pea goes round."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    start, base = 0.2, rng.uniform(2300, 2900)
    for _ in range(int(count)):
        on = length * rng.uniform(0.9, 1.1)
        time = times(on, sample_rate)
        pea = 0.5 + 0.5 * np.sin(2 * np.pi * np.cumsum(30 + 8 * np.minimum(1, time / 0.2))
                                 / sample_rate)  # fmt: skip
        blow = sum(
            tone(base * step * (1 + 0.012 * pea), (1, 0.15), sample_rate=sample_rate)
            for step in (1, 1.07, 1.43)
        )
        hiss = noise(on, band(1500, 8000), sample_rate=sample_rate, rng=rng)
        blow = (blow + 0.5 * hiss) * (0.35 + 0.65 * pea)
        blow *= held(len(blow), attack=0.02, release=0.04, sample_rate=sample_rate)
        add(mix, blow, at=num_samples(start, sample_rate))
        start += on + rng.uniform(0.15, 0.35)
    return mix


EFFECTS = {
    "birdsong": Effect(
        make=birdsong,
        attributes={
            "pitch": {"low": (1900, 2400), "": (3000, 3700), "high": (4600, 5600)},
            "birds": {"one": (1, 1), "many": (5, 9)},
        },
        places=OUTDOORS,
    ),
    "owl": Effect(
        make=owl,
        attributes={"pitch": {"low": (300, 340), "": (390, 430), "high": (480, 540)}},
        places=OUTDOORS,
        seconds=(4.0, 8.0),
    ),
    "crickets": Effect(
        make=crickets,
        attributes={
            "speed": {"slow": (1.2, 1.6), "": (2.2, 2.8), "fast": (4, 5)},
            "insects": {"one": (1, 1), "many": (10, 20)},
        },
        places=OUTDOORS,
    ),
    "bees": Effect(make=bees, attributes={"insects": {"one": (1, 1), "many": (8, 14)}}, places=()),
    "frogs": Effect(
        make=frogs,
        attributes={
            "pitch": {"deep": (280, 400), "": (600, 800), "high": (1300, 1800)},
            "animals": {"one": (1, 1), "many": (5, 9)},
        },
        places=OUTDOORS,
    ),
    "whistling": Effect(
        make=whistling, attributes={"speed": {"slow": (2, 2.6), "": (3.6, 4.4), "fast": (6, 7.5)}}
    ),
    "referee whistle": Effect(
        make=referee,
        attributes={
            "count": {"once": (1, 1), "twice": (2, 2), "three times": (3, 3)},
            "length": {"short": (0.2, 0.35), "long": (0.7, 1.0)},
        },
        seconds=(4.5, 6.0),
    ),
}
