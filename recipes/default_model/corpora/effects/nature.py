"""Weather and water: wind, thunder, a brook, drops, a waterfall."""

import numpy as np

from corpora.effects.effect import OUTDOORS, Effect
from corpora.signals import (
    add,
    band,
    beats,
    burst,
    decaying,
    filtered,
    noise,
    num_samples,
    poisson,
    resonances,
    times,
    wander,
)


def wind(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, strength: float, howl: float
) -> np.ndarray:
    """Low noise in gusts; where it meets an edge, a whistle whose note follows its speed."""
    force = 0.8 * wander(seconds, rate=0.4, sample_rate=sample_rate, rng=rng)
    force += 0.2 * wander(seconds, rate=2.0, sample_rate=sample_rate, rng=rng)
    force = 0.3 + 0.7 * force  # gusts
    sound = 0.5 * noise(seconds, band(40, 140), sample_rate=sample_rate, rng=rng) * force
    for width, low, high in ((150, 150, 300), (250, 280, 500), (450, 450, 800)):
        centre = rng.uniform(low, high) * 2 ** (0.8 * (force - 0.6))
        rush = _moving_band(centre, width, sample_rate=sample_rate, rng=rng)
        sound += 0.5 * strength**0.5 * (200 / low) ** 0.7 * rush * force**2
    hiss = noise(seconds, band(700, 3000, order=1), sample_rate=sample_rate, rng=rng)
    sound += 0.03 * strength * hiss * force**3
    for _ in range(2 if howl > 0 else 0):
        centre = rng.uniform(350, 800) * 2 ** (0.9 * (force - 0.6))
        sound += howl * _moving_band(centre, 35, sample_rate=sample_rate, rng=rng) * force**2
    return sound


def _moving_band(
    centre: np.ndarray, width: float, *, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise of some Hz around a moving frequency: slow complex noise that turns a carrier."""
    seconds = len(centre) / sample_rate
    parts = [noise(seconds, band(0, width), sample_rate=sample_rate, rng=rng) for _ in range(2)]
    angle = 2 * np.pi * np.cumsum(centre) / sample_rate
    length = min(len(angle), len(parts[0]))
    return parts[0][:length] * np.cos(angle[:length]) + parts[1][:length] * np.sin(angle[:length])


def thunder(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, nearness: float
) -> np.ndarray:
    """One stroke of lightning heard from its parts, the far ones later and duller."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    start = rng.uniform(0.2, 0.6)
    if nearness > 0.5:
        for delay in [0, *rng.exponential(0.12, 5)]:
            crack = burst(rng.uniform(0.02, 0.06), band(60, 5_000, order=1),
                          sample_rate=sample_rate, rng=rng)  # fmt: skip
            add(mix, rng.uniform(0.7, 1.3) * crack, at=num_samples(start + delay, sample_rate))
    for number in range(14):
        delay = rng.exponential(1.1) if number else 0.0
        cutoff = (350 if nearness > 0.5 else 150) * np.exp(-delay / 3) * rng.uniform(0.6, 1.4)
        length = rng.uniform(0.8, 2.0)
        roll = noise(length * 2.5, band(25, cutoff), sample_rate=sample_rate, rng=rng)
        roll *= 0.3 + wander(length * 2.5, rate=14, sample_rate=sample_rate, rng=rng)
        roll *= decaying(len(roll), length / 2, attack=0.05 + 0.15 * (1 - nearness),
                         sample_rate=sample_rate)  # fmt: skip
        level = 0.4 * np.exp(-delay / 2.5) * rng.uniform(0.4, 1)
        add(mix, level * roll, at=num_samples(start + delay, sample_rate))
    return mix


def dripping(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, pitch: float
) -> np.ndarray:
    """Drops that fall into water: a splash and some bubbles whose notes rise as they close."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for start in beats(seconds, 1 / speed, jitter=0.06 if speed < 3 else 0.4, rng=rng):
        splash = burst(0.006, band(600, 6000, order=1), sample_rate=sample_rate, rng=rng)
        add(mix, rng.uniform(0.2, 0.5) * splash, at=num_samples(start, sample_rate))
        delay, frequency = 0.008, pitch * rng.uniform(0.8, 1.25)
        for number in range(rng.integers(2, 5)):
            bubble = _bubble(frequency, decay=rng.uniform(5, 9) / frequency,
                             rise=rng.uniform(4, 14), sample_rate=sample_rate)  # fmt: skip
            at = num_samples(start + delay, sample_rate)
            add(mix, rng.uniform(0.5, 1) * 0.7**number * bubble, at=at)
            delay += rng.uniform(0.01, 0.05)
            frequency *= rng.uniform(0.8, 1.7)
    return mix


def _bubble(frequency: float, *, decay: float, rise: float, sample_rate: int) -> np.ndarray:
    time = times(6 * decay, sample_rate)
    moving = np.minimum(frequency * (1 + rise * time), 0.45 * sample_rate)
    wave = np.sin(2 * np.pi * np.cumsum(moving) / sample_rate)
    return wave * decaying(len(time), decay, attack=0.001, sample_rate=sample_rate)


def brook(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, strength: float
) -> np.ndarray:
    """Running water: hundreds of bubbles a second of all sizes over a soft rush."""
    length = num_samples(seconds, sample_rate)
    mix = np.zeros(length)
    for start in poisson(seconds, 260 * strength, rng=rng):
        frequency = np.exp(rng.uniform(np.log(350), np.log(4500)))
        bubble = _bubble(frequency, decay=min(0.05, 12 / frequency), rise=rng.uniform(0, 5),
                         sample_rate=sample_rate)  # fmt: skip
        level = rng.exponential(1) * (700 / frequency) ** 0.5
        add(mix, level * bubble, at=num_samples(start, sample_rate))
    rush = noise(seconds, band(400, 4000, order=1), sample_rate=sample_rate, rng=rng)
    rush *= 0.6 + 0.4 * wander(seconds, rate=2, sample_rate=sample_rate, rng=rng)
    return mix / max(mix.std(), 1e-9) + 0.25 * strength * rush


def waterfall(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, size: float
) -> np.ndarray:
    """Falling water: a broad roar, deeper the larger it is, that hardly changes."""
    spectrum = resonances([300 / size, 1100, 2800], [700, 1600, 4000], [0.6 * size, 1, 0.5],
                          floor=0.08)  # fmt: skip
    sound = noise(seconds, spectrum, sample_rate=sample_rate, rng=rng)
    sound *= 0.85 + 0.15 * wander(seconds, rate=6, sample_rate=sample_rate, rng=rng)
    return sound + 0.35 * brook(seconds, sample_rate=sample_rate, rng=rng, strength=2.0)


def pouring(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Water poured into a glass, whose column of air sounds higher and higher as it fills."""
    mix = brook(seconds, sample_rate=sample_rate, rng=rng, strength=2.5)
    time = times(seconds, sample_rate)
    fill = np.clip((time - 0.3) * speed / seconds, 0, 1)
    on = np.clip((time - 0.3) / 0.05, 0, 1) * np.clip((seconds / speed + 0.3 - time) / 0.1, 0, 1)
    column = 400 * (1 - 0.75 * fill) ** -1
    air = _moving_band(column, 120, sample_rate=sample_rate, rng=rng)
    splash = filtered(mix, band(600, 6000, order=1), sample_rate=sample_rate)
    return (splash / max(splash.std(), 1e-9) + 0.4 * air[: len(time)]) * on


EFFECTS = {
    "wind": Effect(
        make=wind,
        attributes={
            "strength": {"gentle": (0.3, 0.5), "": (0.8, 1.1), "strong": (1.8, 2.5)},
            "howl": {"": (0, 0), "howling": (0.7, 1.2)},
        },
        places=OUTDOORS,
        seconds=(5.0, 10.0),
    ),
    "thunder": Effect(
        make=thunder,
        attributes={"nearness": {"rolling": (0.1, 0.3), "cracking": (0.7, 1.0)}},
        places=OUTDOORS,
        seconds=(5.0, 9.0),
    ),
    "dripping": Effect(
        make=dripping,
        attributes={
            "speed": {"slow": (0.7, 1.1), "": (1.8, 2.5), "fast": (5, 8)},
            "pitch": {"low": (430, 520), "": (650, 800), "high": (1000, 1300)},
        },
    ),
    "brook": Effect(
        make=brook,
        attributes={"strength": {"small": (0.2, 0.35), "": (0.6, 0.9), "rushing": (2.0, 3.0)}},
        places=OUTDOORS,
    ),
    "waterfall": Effect(
        make=waterfall,
        attributes={"size": {"small": (0.5, 0.7), "large": (1.5, 2.0)}},
        places=OUTDOORS,
    ),
    "pouring": Effect(
        make=pouring,
        attributes={"speed": {"slow": (1.05, 1.15), "fast": (1.8, 2.4)}},
        seconds=(4.0, 6.0),
    ),
}
