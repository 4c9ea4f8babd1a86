"""Motors and vehicles: pulses through pipes, whines of gears, rails, and the noise of air."""

import numpy as np

from corpora.effects.effect import OUTDOORS, Effect
from corpora.signals import (
    add,
    band,
    burst,
    filtered,
    held,
    noise,
    num_samples,
    resonances,
    saw,
    times,
    tone,
    wander,
)


def engine(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, mode: float, size: float
) -> np.ndarray:
    """Explosions in uneven cylinders through an exhaust; it idles (mode 0) or revs (1)."""
    time = times(seconds, sample_rate)
    idle = rng.uniform(11, 15)  # turns of the shaft a second
    speed = idle * (1 + 0.04 * (wander(seconds, rate=3, sample_rate=sample_rate, rng=rng) - 0.5))
    load = np.zeros_like(time)
    if mode == 1:
        for start in np.arange(rng.uniform(0.2, 0.5), seconds, rng.uniform(1.6, 2.4)):
            up, down = rng.uniform(0.35, 0.6), rng.uniform(0.5, 0.8)
            part = np.clip((time - start) / up, 0, 1) * np.exp(-np.maximum(0, time - start - up)
                                                               / down)  # fmt: skip
            load = np.maximum(load, part * rng.uniform(0.7, 1.0))
        speed = speed * (1 + 4.5 * load)
    sound = _exhaust(speed, cylinders=4, size=size, sample_rate=sample_rate, rng=rng)
    hiss = noise(seconds, band(500, 5000, order=1), sample_rate=sample_rate, rng=rng)
    return sound * (0.5 + load) + hiss * (0.03 + 0.12 * load)


def _exhaust(
    speed: np.ndarray, *, cylinders: int, size: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """[N] from the turns a second: a pulse for each firing, through the pipe's resonances."""
    cycle = np.cumsum(speed) / sample_rate * cylinders / 2
    firing = np.flatnonzero(np.diff(np.floor(cycle)) > 0)
    uneven = rng.uniform(0.7, 1.1, cylinders)
    pulses = np.zeros_like(speed)
    jitter = (rng.standard_normal(len(firing)) * 0.0006 * sample_rate).astype(int)
    places = np.clip(firing + jitter, 0, len(speed) - 1)
    strength = uneven[np.arange(len(firing)) % cylinders]
    pulses[places] += strength * rng.uniform(0.75, 1.1, len(firing))
    puff = burst(0.004, band(40, 1800, order=1), sample_rate=sample_rate, rng=rng)
    spread = np.convolve(pulses, puff * np.exp(-np.arange(len(puff)) / (0.006 * sample_rate)))
    thump = filtered(pulses, band(35, 220 / size), sample_rate=sample_rate) * sample_rate / 900
    centres = np.array([90, 210, 430, 900, 1900]) / size * rng.uniform(0.9, 1.1, 5)
    pipe = resonances(centres, centres * 0.35, [1.4, 1, 0.8, 0.5, 0.3], floor=0.1)
    sound = filtered(spread[: len(speed)] + thump, pipe, sample_rate=sample_rate)
    return np.tanh(1.5 * sound / max(np.abs(sound).max(), 1e-9)) / 0.5


def passing_car(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Tyres and an engine that come, pass a few metres away and go, with the Doppler shift."""
    time = times(seconds, sample_rate)
    passing, nearest = rng.uniform(0.4, 0.6) * seconds, rng.uniform(4, 7)
    along = speed * (time - passing)
    distance = np.sqrt(along**2 + nearest**2)
    factor = 1 / (1 + speed * along / distance / 343)
    motor = _exhaust(factor * rng.uniform(35, 50), cylinders=4, size=1.0,
                     sample_rate=sample_rate, rng=rng)  # fmt: skip
    low = noise(seconds, band(50, 300), sample_rate=sample_rate, rng=rng)
    tyres = noise(seconds, resonances([850, 1300], [700, 900], [1, 0.3]),
                  sample_rate=sample_rate, rng=rng)  # fmt: skip
    gain = nearest / distance
    return (1.2 * motor + low) * gain + 0.45 * tyres * gain**1.5


def train(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, horn: float
) -> np.ndarray:
    """Wheels over rail joints in pairs, above the rumble of the cars; at times the horn."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    body = np.array([90, 190, 420, 1100]) * rng.uniform(0.9, 1.1, 4)
    rail = resonances(body, body * 1.5, [0.6, 0.9, 0.8, 0.5], floor=0.15)
    now, gap = 0.1, 0.16 / speed**0.5
    while now < seconds:
        for delay in (0, gap):
            clack = burst(
                rng.uniform(0.02, 0.05), rail, attack=0.004, sample_rate=sample_rate, rng=rng
            )
            at = num_samples(now + delay + rng.normal(0, 0.006), sample_rate)
            add(mix, clack * rng.uniform(0.6, 1), at=at)
        now += rng.uniform(0.93, 1.07) / speed
    mix *= 0.5 / max(mix.std(), 1e-9)
    rumble = noise(seconds, band(40, 200), sample_rate=sample_rate, rng=rng)
    roll = noise(seconds, resonances([600, 1500], [700, 1200], [1, 0.4]),
                 sample_rate=sample_rate, rng=rng)  # fmt: skip
    sway = 0.7 + 0.3 * wander(seconds, rate=speed, sample_rate=sample_rate, rng=rng)
    mix += 1.0 * rumble * sway + 0.9 * roll * sway
    if horn > 0:
        add(mix, 3 * _train_horn(rng.uniform(1.2, 2.0), sample_rate=sample_rate, rng=rng),
            at=num_samples(rng.uniform(0.3, 1.0), sample_rate))  # fmt: skip
    return mix


def _train_horn(seconds: float, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    steady = np.ones(num_samples(seconds, sample_rate))
    root = rng.uniform(300, 340)
    chord = np.zeros_like(steady)
    for step in (1, 1.19, 1.335, 1.5, 1.78):
        chord += tone(root * step * steady, saw(20, tilt=0.8), sample_rate=sample_rate,
                      phase=rng.uniform(0, 6))  # fmt: skip
    chord = filtered(np.tanh(0.5 * chord), band(250, 3500, order=1), sample_rate=sample_rate)
    return chord * held(len(chord), attack=0.08, release=0.15, sample_rate=sample_rate)


def drill(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, count: float
) -> np.ndarray:
    """A hand drill: a motor's whine that runs up, labours under load and runs down again."""
    time = times(seconds, sample_rate)
    on = np.zeros_like(time)
    length = seconds / count
    for number in range(int(count)):
        begin, end = (number + 0.08) * length, (number + 0.85) * length
        rise = np.clip((time - begin) / 0.25, 0, 1) ** 0.5
        on = np.maximum(on, rise * np.clip(1 - (time - end) / 0.3, 0, 1))
    load = wander(seconds, rate=1.5, sample_rate=sample_rate, rng=rng)
    frequency = np.maximum(20, pitch * on * (1 - 0.18 * load))
    whine = tone(frequency, saw(30, tilt=0.7), sample_rate=sample_rate)
    gears = tone(frequency * 7.3, saw(4, tilt=0.5), sample_rate=sample_rate)
    grit = noise(seconds, band(1200, 7000, order=1), sample_rate=sample_rate, rng=rng)
    grit *= 1 + 0.8 * np.sin(2 * np.pi * np.cumsum(frequency / 3) / sample_rate)
    body = resonances([900, 2300, 4100], [700, 1200, 1800], [1, 1.2, 0.7], floor=0.15)
    sound = filtered(whine + 0.5 * gears, body, sample_rate=sample_rate)
    return (sound + (0.25 + 0.5 * load) * grit) * on**1.5


def vacuum_cleaner(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, start: float
) -> np.ndarray:
    """A fan's note and the rush of air; it runs all the time or is switched on first."""
    time = times(seconds, sample_rate)
    run = np.ones_like(time)
    if start > 0:
        run = 1 - np.exp(-np.maximum(0, time - 0.5) / 0.35)
    sway = 1 + 0.03 * (wander(seconds, rate=1, sample_rate=sample_rate, rng=rng) - 0.5)
    whine = tone(np.maximum(15, pitch * run * sway), saw(12, tilt=0.5), sample_rate=sample_rate)
    whine = filtered(whine, band(200, 5000, order=1), sample_rate=sample_rate)
    air = noise(seconds, resonances([700, 1500, 3500], [500, 1200, 3500], [1.0, 1.2, 0.9],
                                    floor=0.12), sample_rate=sample_rate, rng=rng)  # fmt: skip
    air *= 0.92 + 0.1 * wander(seconds, rate=0.8, sample_rate=sample_rate, rng=rng)
    return (0.3 * whine + air) * run**2


def steam(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Steam from a valve: high noise that breaks out and tails off, or hisses on (speed 0)."""
    sound = noise(seconds, band(2500, 11_000, order=1), sample_rate=sample_rate, rng=rng)
    time = times(seconds, sample_rate)
    if speed == 0:
        return sound * (0.8 + 0.2 * wander(seconds, rate=4, sample_rate=sample_rate, rng=rng))
    shape = np.zeros_like(time)
    for start in np.arange(0.2, seconds, 1 / speed):
        since = time - start
        jet = np.clip(since / 0.02, 0, 1) * np.exp(-np.maximum(0, since) * speed * 3.0)
        shape = np.maximum(shape, jet * rng.uniform(0.7, 1))
    return sound * shape


def aeroplane(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, kind: float
) -> np.ndarray:
    """A propeller's buzz (kind 0) or a jet's roar with its turbine's whine (1), passing over."""
    time = times(seconds, sample_rate)
    middle = rng.uniform(0.4, 0.6) * seconds
    path = (time - middle) / seconds
    gain = 1 / np.sqrt(1 + (4 * path) ** 2)
    doppler = 1 - 0.22 * np.tanh(3 * path)
    if kind == 0:
        sound = np.zeros_like(time)
        for detune in (1, rng.uniform(1.004, 1.012)):
            sound += tone(rng.uniform(85, 105) * detune * doppler, saw(30, tilt=0.55),
                          sample_rate=sample_rate, phase=rng.uniform(0, 6))  # fmt: skip
        air = noise(seconds, band(80, 900, order=1), sample_rate=sample_rate, rng=rng)
        sound = filtered(sound, band(90, 1600, order=1), sample_rate=sample_rate)
        return (sound / sound.std() + 0.4 * air) * gain
    roar = noise(seconds, band(60, 400), sample_rate=sample_rate, rng=rng)
    rush = noise(seconds, band(300, 1500), sample_rate=sample_rate, rng=rng)
    whine = tone(rng.uniform(1800, 2600) * doppler, (1, 0.3), sample_rate=sample_rate)
    roar *= 0.7 + 0.6 * wander(seconds, rate=5, sample_rate=sample_rate, rng=rng)
    return roar * gain**0.7 + 0.35 * rush * gain**1.5 + 0.2 * whine * gain**2


EFFECTS = {
    "engine": Effect(
        make=engine,
        attributes={
            "mode": {"idling": (0, 0), "revving": (1, 1)},
            "size": {"small": (0.6, 0.75), "": (0.95, 1.1), "big": (1.5, 1.9)},
        },
        places=OUTDOORS,
        seconds=(4.0, 8.0),
    ),
    "passing car": Effect(
        make=passing_car,
        attributes={"speed": {"slow": (9, 12), "": (15, 19), "fast": (27, 36)}},
        places=OUTDOORS,
        seconds=(5.0, 8.0),
    ),
    "train": Effect(
        make=train,
        attributes={
            "speed": {"slow": (0.7, 0.9), "": (1.2, 1.6), "fast": (2.2, 2.8)},
            "horn": {"": (0, 0), "horn": (1, 1)},
        },
        places=OUTDOORS,
        seconds=(5.0, 9.0),
    ),
    "drill": Effect(
        make=drill,
        attributes={
            "pitch": {"low": (150, 200), "": (260, 330), "high": (450, 600)},
            "count": {"": (1, 1), "bursts": (2, 3)},
        },
    ),
    "vacuum cleaner": Effect(
        make=vacuum_cleaner,
        attributes={
            "pitch": {"low": (280, 340), "": (420, 500), "high": (650, 780)},
            "start": {"": (0, 0), "switched on": (1, 1)},
        },
    ),
    "steam": Effect(
        make=steam,
        attributes={"speed": {"steady": (0, 0), "slow": (0.5, 0.8), "fast": (1.6, 2.6)}},
    ),
    "aeroplane": Effect(
        make=aeroplane,
        attributes={"kind": {"propeller": (0, 0), "jet": (1, 1)}},
        places=OUTDOORS,
        seconds=(6.0, 10.0),
    ),
}
