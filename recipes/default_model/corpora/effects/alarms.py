"""Sounds that are made to be heard: sirens, alarms, bells of telephones, horns, arcade machines."""

import numpy as np

from corpora.effects.effect import OUTDOORS, Effect
from corpora.signals import (
    add,
    band,
    beats,
    filtered,
    glide,
    held,
    modes,
    num_samples,
    resonances,
    saw,
    square,
    times,
    tone,
)


def siren(
    seconds: float,
    *,
    sample_rate: int,
    rng: np.random.Generator,
    kind: float,
    pitch: float,
) -> np.ndarray:
    """A horn speaker that wails (kind 0), yelps (1) or changes between two notes (2)."""
    time = times(seconds, sample_rate)
    if kind < 2:
        period = rng.uniform(2.8, 4.5) if kind < 1 else rng.uniform(0.22, 0.35)
        cycle = (time / period + rng.random()) % 1
        rise = 0.55 if kind < 1 else 0.75
        height = np.where(cycle < rise, cycle / rise, (1 - cycle) / (1 - rise))
        frequency = pitch * (1 + rng.uniform(1.0, 1.4) * np.sin(height * np.pi / 2))
    else:
        low = (time / rng.uniform(0.45, 0.7) + rng.random()) % 2 < 1
        frequency = pitch * np.where(low, 1.0, rng.choice([1.335, 1.26]))
    sound = np.tanh(2.5 * tone(frequency, saw(24, tilt=1.1), sample_rate=sample_rate))
    return filtered(sound, band(500, 3500), sample_rate=sample_rate)


def alarm_beeps(
    seconds: float,
    *,
    sample_rate: int,
    rng: np.random.Generator,
    pitch: float,
    speed: float,
    group: float,
) -> np.ndarray:
    """Electronic beeps, `speed` a second, in groups with a pause after each."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    length = rng.uniform(0.45, 0.6) / speed
    frequency = np.full(num_samples(length, sample_rate), pitch)
    beep = tone(frequency, square(9, tilt=1.2), sample_rate=sample_rate)
    beep *= held(len(beep), attack=0.003, release=0.005, sample_rate=sample_rate)
    count, now = int(group), 0.05
    while now < seconds:
        for number in range(count):
            add(mix, beep, at=num_samples(now + number / speed, sample_rate))
        now += count / speed + (rng.uniform(0.35, 0.4) if count > 1 else 0)
    return filtered(mix, band(pitch * 0.6, 9_000), sample_rate=sample_rate)


def telephone(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, kind: float, speed: float
) -> np.ndarray:
    """Two gongs struck in turn by a clapper (kind 0), or an electronic trill (1)."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    ring, pause = 2.0 / speed, 1.6 / speed
    rate = rng.uniform(19, 24) if kind < 1 else rng.uniform(12, 18)
    if kind < 1:
        base = rng.uniform(900, 1300)
        ratios = np.array([1, 2.7, 5.1, 8.2])
        gongs = [
            modes(base * detune * ratios, 0.45 / ratios**0.4, np.array([1, 0.8, 0.5, 0.25]),
                  sample_rate=sample_rate, rng=rng)
            for detune in (1, rng.uniform(1.15, 1.3))
        ]  # fmt: skip
    else:
        low = rng.uniform(600, 1200)
        gongs = [
            tone(np.full(num_samples(1 / rate, sample_rate), low * step), square(12),
                 sample_rate=sample_rate)
            for step in (1, rng.choice([1.25, 1.33]))
        ]  # fmt: skip
    start = 0.05
    while start < seconds:
        for number in range(int(ring * rate)):
            level = 1 + 0.1 * rng.standard_normal() if kind < 1 else 1.0
            at = num_samples(start + number / rate, sample_rate)
            add(mix, level * gongs[number % 2], at=at)
        start += ring + pause
    return mix


def car_horn(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, count: float, length: float
) -> np.ndarray:
    """Two reeds about a minor third apart; short honks or long ones."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    base = rng.uniform(370, 450)
    start = 0.15
    for _ in range(int(count)):
        seconds_on = length * rng.uniform(0.85, 1.15)
        steady = np.ones(num_samples(seconds_on, sample_rate))
        honk = sum(
            tone(base * step * steady, saw(24, tilt=0.55), sample_rate=sample_rate, phase=phase)
            for step, phase in ((1, 0.3), (rng.uniform(1.19, 1.26), 1.1))
        )
        honk = np.tanh(0.5 * honk)
        honk *= held(len(honk), attack=0.012, release=0.03, sample_rate=sample_rate)
        add(mix, honk, at=num_samples(start, sample_rate))
        start += seconds_on + rng.uniform(0.12, 0.4)
    horn = resonances([700, 2100, 3300], [600, 900, 1200], [1, 1.2, 0.6], floor=0.1)
    return filtered(mix, horn, sample_rate=sample_rate)


def doorbell(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, count: float
) -> np.ndarray:
    """Ding-dong: two chime bars, the second a major third below the first."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    ratios, start = np.array([1, 2.76, 5.4]), 0.1
    step = rng.uniform(0.5, 0.75)
    for _ in range(int(count)):
        for number, factor in enumerate((1, 0.794)):
            chime = modes(pitch * factor * ratios, np.array([0.8, 0.25, 0.08]),
                          np.array([1, 0.35, 0.2]), sample_rate=sample_rate, rng=rng)  # fmt: skip
            add(mix, chime, at=num_samples(start + number * step, sample_rate))
        start += 3 * step + rng.uniform(0.3, 0.6)
    return mix


def laser(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, pitch: float
) -> np.ndarray:
    """Shots of a space game: tones that fall by octaves within a blink."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    harmonics, length = square(12) if rng.random() < 0.5 else saw(10), rng.uniform(0.15, 0.4)
    for start in beats(seconds, 1 / speed, jitter=0.2, rng=rng):
        low = rng.uniform(100, 250)
        points = [(0.0, pitch), (0.4 * length, (pitch * low * low) ** (1 / 3)), (length, low)]
        shot = tone(glide(points, length, sample_rate), harmonics, sample_rate=sample_rate)
        shot *= held(len(shot), attack=0.002, release=0.6 * length, sample_rate=sample_rate)
        add(mix, shot, at=num_samples(start, sample_rate))
    return mix


def arcade(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, pitch: float
) -> np.ndarray:
    """Blips of an old video game: square waves in quick arpeggios and coin chimes."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    now = 0.05
    while now < seconds:
        chord = rng.choice([[0, 4, 7, 12], [0, 3, 7, 10], [12, 7, 4, 0], [0, 5, 12, 17]])
        root, last = pitch * 2 ** (rng.integers(-3, 5) / 12), rng.random() < 0.4
        for number, semitone in enumerate(chord):
            length = (3 if last and number == 3 else 1) / speed
            frequency = np.full(num_samples(length, sample_rate), root * 2 ** (semitone / 12))
            blip = tone(frequency, square(20), sample_rate=sample_rate)
            blip *= held(len(blip), attack=0.001, release=0.4 * length, sample_rate=sample_rate)
            add(mix, blip, at=num_samples(now, sample_rate))
            now += length
        now += rng.choice([0.0, 0.0, 2.0 / speed])
    return mix


def sonar(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, speed: float
) -> np.ndarray:
    """A submarine's ping that rings out and comes back as an echo."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    ring = modes(pitch * np.array([1, 1.003, 2]), np.array([0.7, 0.6, 0.15]),
                 np.array([1, 0.7, 0.1]), sample_rate=sample_rate, rng=rng)  # fmt: skip
    ring *= np.minimum(1, np.arange(len(ring)) / (0.02 * sample_rate))
    echo = rng.uniform(0.5, 0.9)
    for start in beats(seconds, 1 / speed, jitter=0.0, rng=rng):
        for number in range(3):
            at = num_samples(start + number * echo, sample_rate)
            add(mix, ring * 0.3**number, at=at)
    return mix


EFFECTS = {
    "siren": Effect(
        make=siren,
        attributes={
            "kind": {"wailing": (0, 0), "yelping": (1, 1), "two-tone": (2, 2)},
            "pitch": {"low": (380, 450), "": (480, 560), "high": (600, 750)},
        },
        places=OUTDOORS,
    ),
    "alarm": Effect(
        make=alarm_beeps,
        attributes={
            "pitch": {"low": (900, 1200), "": (1600, 2200), "high": (2600, 3300)},
            "speed": {"slow": (1.4, 2.0), "": (3, 4), "fast": (6, 9)},
            "group": {"": (1, 1), "in groups of three": (3, 3), "in groups of four": (4, 4)},
        },
    ),
    "telephone": Effect(
        make=telephone,
        attributes={
            "kind": {"old": (0, 0), "electronic": (1, 1)},
            "speed": {"": (0.9, 1.1), "hurried": (1.6, 2.2)},
        },
        seconds=(4.0, 9.0),
    ),
    "car horn": Effect(
        make=car_horn,
        attributes={
            "count": {"once": (1, 1), "twice": (2, 2), "three times": (3, 3)},
            "length": {"short": (0.15, 0.3), "long": (0.7, 1.2)},
        },
        places=OUTDOORS,
        seconds=(6.0, 7.5),
    ),
    "doorbell": Effect(
        make=doorbell,
        attributes={
            "pitch": {"low": (520, 600), "": (640, 720), "high": (800, 950)},
            "count": {"once": (1, 1), "twice": (2, 2)},
        },
        seconds=(5.0, 7.0),
    ),
    "laser": Effect(
        make=laser,
        attributes={
            "speed": {"slow": (0.8, 1.2), "": (2, 2.8), "fast": (4.5, 7)},
            "pitch": {"low": (1200, 1800), "": (2200, 3000), "high": (4000, 5500)},
        },
    ),
    "arcade game": Effect(
        make=arcade,
        attributes={
            "speed": {"slow": (5, 7), "": (9, 12), "fast": (16, 22)},
            "pitch": {"low": (180, 260), "": (380, 520), "high": (800, 1100)},
        },
    ),
    "sonar": Effect(
        make=sonar,
        attributes={
            "pitch": {"low": (500, 700), "": (850, 1050), "high": (1300, 1700)},
            "speed": {"slow": (0.3, 0.4), "": (0.5, 0.7)},
        },
        seconds=(5.0, 9.0),
    ),
}
