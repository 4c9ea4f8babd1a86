"""Things that are struck: bells, doors, floors, keys, glass, nails; and hands and hearts."""

import numpy as np

from corpora.effects.effect import OUTDOORS, Effect
from corpora.effects.rooms import in_room
from corpora.signals import (
    add,
    band,
    beats,
    burst,
    convolved,
    filtered,
    modes,
    noise,
    num_samples,
    poisson,
    resonances,
)


def church_bell(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, pitch: float, speed: float
) -> np.ndarray:
    """The partials of a cast bell (hum, prime, tierce, quint, nominal), each a beating pair."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    ratios = np.array([0.5, 1, 1.19, 1.5, 2, 2.5, 2.67, 3.01, 4.1, 5.4, 6.8])
    heights = np.array([0.6, 0.9, 0.9, 0.4, 1, 0.35, 0.4, 0.5, 0.4, 0.25, 0.15])
    decays = 3.2 * (300 / pitch) ** 0.5 / ratios**0.8
    for start in beats(seconds, 1 / speed, jitter=0.02, rng=rng):
        level = rng.uniform(0.8, 1.0)
        for detune in (1, 1 + rng.uniform(0.0008, 0.002)):
            ring = modes(pitch * detune * ratios, decays, level * heights,
                         sample_rate=sample_rate, rng=rng)  # fmt: skip
            add(mix, ring, at=num_samples(start, sample_rate))
        clapper = burst(0.008, band(800, 5_000), sample_rate=sample_rate, rng=rng)
        add(mix, 0.8 * level * clapper, at=num_samples(start, sample_rate))
    return mix


def footsteps(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, surface: float
) -> np.ndarray:
    """Heel, then toe; on wood (0) a hollow floor rings, gravel (1) crunches, stone (2) clicks."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    base = rng.uniform(85, 125)
    for number, start in enumerate(beats(seconds, 1 / speed, jitter=0.04, rng=rng)):
        level = rng.uniform(0.7, 1.0) * (1.0 if number % 2 else 0.85)
        for delay, weight in ((0.0, 1.0), (rng.uniform(0.09, 0.13) / speed**0.5, 0.5)):
            step = _step(surface, base, sample_rate=sample_rate, rng=rng)
            add(mix, level * weight * step, at=num_samples(start + delay, sample_rate))
    return mix


def _step(surface: float, base: float, *, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    step = np.zeros(num_samples(0.35, sample_rate))
    if surface == 1:
        for when in rng.beta(1.5, 3, 90) * 0.26:
            centre = rng.uniform(1000, 6500)
            grain = burst(
                rng.uniform(0.001, 0.004),
                band(centre * 0.6, centre * 1.5),
                sample_rate=sample_rate,
                rng=rng,
            )
            add(step, rng.exponential(0.4) * grain, at=num_samples(when, sample_rate))
    else:
        hollow = resonances([base * 1.1, base * 2.3, base * 4.5], [50, 120, 250], [1.5, 0.8, 0.4])
        sole = band(150, 2200, order=1) if surface == 0 else band(500, 6000, order=1)
        heel = burst(0.012, sole, attack=0.001, sample_rate=sample_rate, rng=rng)
        add(step, (0.5 if surface == 0 else 1.0) * heel, at=0)
        floor = burst(0.04, hollow, attack=0.002, sample_rate=sample_rate, rng=rng)
        add(step, (1.2 if surface == 0 else 0.35) * floor, at=0)
    scrape = burst(0.03, band(1200, 6000, order=1), attack=0.03, sample_rate=sample_rate, rng=rng)
    add(step, 0.12 * scrape, at=num_samples(0.02, sample_rate))
    return step


def knocking(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, count: float, strength: float
) -> np.ndarray:
    """Knuckles on a wooden door, `count` knocks and a pause, again and again."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    panel = rng.uniform([100, 180, 320, 600], [150, 280, 500, 1000])
    bright = np.array([1.0, 1.0, 0.7 * strength, 0.35 * strength**2])
    door = resonances(panel, panel * 0.4, bright, floor=0.02 * strength**2)
    now, gap = 0.15, rng.uniform(0.15, 0.24)
    while now < seconds - 0.3:
        for _ in range(int(count)):
            knock = burst(
                rng.uniform(0.015, 0.025), door, attack=0.001, sample_rate=sample_rate, rng=rng
            )
            add(mix, knock * rng.uniform(0.7, 1), at=num_samples(now, sample_rate))
            now += gap * rng.uniform(0.92, 1.08)
        now += rng.uniform(0.7, 1.3)
    return mix


def typing(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Keys that go down with a clack and up with a softer one, and a hollow space bar at times."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    case = rng.uniform(0.85, 1.2)
    now = 0.08
    while now < seconds - 0.15:
        space = rng.random() < 0.16
        centres = case * np.array([500, 1300, 3300] if space else [1200, 2900, 6000])
        key = resonances(
            centres * rng.uniform(0.8, 1.25, 3),
            centres * 0.45,
            rng.uniform(0.5, 1, 3),
            floor=0.38,
        )
        for delay, level in ((0, 1.0), (rng.uniform(0.06, 0.11), rng.uniform(0.25, 0.5))):
            for part in (0.0, rng.uniform(0.004, 0.01)):  # the switch, then the bottom
                clack = burst(rng.uniform(0.01, 0.024), key, sample_rate=sample_rate, rng=rng)
                at = num_samples(now + delay + part, sample_rate)
                add(mix, level * rng.uniform(0.3, 1) * clack, at=at)
        now += rng.gamma(5, 1 / 5) / speed + (rng.uniform(0.2, 0.6) if rng.random() < 0.06 else 0)
    return filtered(mix, band(450, 6000, order=1), sample_rate=sample_rate)


def hammering(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float, material: float
) -> np.ndarray:
    """A hammer that drives a nail into wood (0), its note rising, or strikes metal (1)."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    board = rng.uniform([140, 300, 700], [220, 500, 1200])
    steel = np.sort(rng.uniform(900, 7000, 12))
    for number, start in enumerate(beats(seconds, 1 / speed, jitter=0.06, rng=rng)):
        wood = resonances(board, board * 0.5, [1, 0.8, 0.6], floor=0.08)
        hit = burst(0.025, wood, attack=0.0005, sample_rate=sample_rate, rng=rng)
        if material == 1:
            decays = rng.uniform(0.02, 0.12, 12)
            ring = modes(steel, decays, rng.uniform(0, 0.22, 12), sample_rate=sample_rate, rng=rng)
        else:
            nail = rng.uniform(1900, 2100) * (1 + 0.05 * (number % 8)) * np.array([1, 1.7, 2.4])
            ring = modes(nail, np.array([0.02, 0.015, 0.01]), np.array([0.25, 0.2, 0.1]),
                         sample_rate=sample_rate, rng=rng)  # fmt: skip
        strike = burst(0.005, band(800, 9000, order=1), sample_rate=sample_rate, rng=rng)
        for part, level in ((hit, 1.0), (ring, 1.0), (strike, 0.5)):
            at = num_samples(start, sample_rate)
            add(mix, level * rng.uniform(0.75, 1) * part, at=at)
    return mix


def glass(seconds: float, *, sample_rate: int, rng: np.random.Generator, size: float) -> np.ndarray:
    """A pane or a bottle that breaks: a crack, then shards that ring, fall and bounce."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    impact = rng.uniform(0.2, 0.6)
    crack = burst(0.03, band(600, 11_000, order=1), sample_rate=sample_rate, rng=rng)
    add(mix, 2.5 * crack, at=num_samples(impact, sample_rate))
    for _ in range(int(size)):
        delay = rng.exponential(0.12) if rng.random() < 0.5 else rng.gamma(4, 0.14)
        base = rng.uniform(1800, 6000)
        ratios = np.array([1, 1.53, 2.31, 3.2]) * rng.uniform(0.9, 1.1, 4)
        shard = modes(base * ratios, rng.uniform(0.01, 0.06, 4), rng.uniform(0.2, 1, 4),
                      sample_rate=sample_rate, rng=rng)  # fmt: skip
        level = rng.exponential(0.35) * np.exp(-delay / 0.6)
        bounce = rng.uniform(0.05, 0.12)
        for number in range(rng.integers(1, 4)):
            at = num_samples(impact + delay + number * bounce, sample_rate)
            add(mix, level * 0.5**number * shard, at=at)
    return mix


def heartbeat(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Lub and dub: two valves that close, heard through the chest; `speed` beats a minute."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    base = rng.uniform(42, 58)
    for start in beats(seconds, 60 / speed, jitter=0.02, rng=rng):
        for delay, pitch, level in ((0, 1.0, 1.0), (0.32 * (60 / speed) ** 0.5, 1.25, 0.7)):
            thump = modes(base * pitch * np.array([1, 1.6, 2.4, 3.5]),
                          np.array([0.045, 0.035, 0.025, 0.015]), np.array([1, 0.6, 0.35, 0.15]),
                          sample_rate=sample_rate, rng=rng)  # fmt: skip
            thump *= np.minimum(1, np.arange(len(thump)) / (0.012 * sample_rate))
            add(mix, level * thump, at=num_samples(start + delay, sample_rate))
    return mix


def applause(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, people: float
) -> np.ndarray:
    """Each person claps at a rhythm of their own; the far ones of a crowd blur to noise."""
    length = num_samples(seconds, sample_rate)
    num_shapes = 48 if people > 1 else 12
    events = np.zeros((num_shapes, length))
    for person in range(int(people)):
        rate = rng.uniform(2.5, 6.5)
        jitter = 0.08 if people < 50 else 0.3  # in a crowd no one hears the others' rhythm
        start = rng.uniform(0, 1 / rate)
        moments = beats(seconds, 1 / rate, jitter=jitter, rng=rng, start=start)
        index = (np.array(moments) * sample_rate).astype(int)
        variety = 4 if people < 50 else num_shapes
        shape = (4 * person + rng.integers(0, variety, len(index))) % num_shapes
        nearness = np.exp(rng.normal(0, 0.7))
        events[shape, index] += nearness * rng.uniform(0.6, 1, len(index))
    mix = np.zeros(length)
    for number in range(num_shapes):
        palm = np.exp(rng.uniform(np.log(750), np.log(1900)))
        hands = resonances([palm, palm * 2.1], [1.3 * palm] * 2, [1, 0.5], floor=0.22)
        clap = burst(rng.uniform(0.007, 0.014), hands, sample_rate=sample_rate, rng=rng)
        mix += convolved(events[number], clap)
    mix /= max(mix.std(), 1e-9)
    if people > 50:
        mix += 0.45 * noise(seconds, band(800, 3000, order=1), sample_rate=sample_rate, rng=rng)
    mix = filtered(mix, band(700, 3_800), sample_rate=sample_rate)
    return in_room(mix, reverberation=1.6, wet=0.3, sample_rate=sample_rate, rng=rng)


def ball(seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float) -> np.ndarray:
    """A basketball dribbled on a hall's floor: a slap, a thud, the short ring of the air inside."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    base = rng.uniform(75, 100)
    thud = resonances([base, base * 2.2, base * 4, 1000], [60, 120, 250, 500], [1.2, 1, 0.7, 0.25])
    for start in beats(seconds, 1 / speed, jitter=0.05, rng=rng):
        hit = burst(0.04, thud, attack=0.001, sample_rate=sample_rate, rng=rng)
        add(hit, 0.6 * burst(0.01, band(300, 3500, order=1), sample_rate=sample_rate, rng=rng),
            at=0)  # fmt: skip
        add(mix, hit * rng.uniform(0.8, 1), at=num_samples(start, sample_rate))
    return mix


def coins(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, count: float
) -> np.ndarray:
    """Coins that fall on a table, bounce faster and faster and spin to rest."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for number in range(int(count)):
        base = rng.uniform(2800, 4800)
        ratios = np.array([1, 1.31, 1.73, 2.14, 2.9]) * rng.uniform(0.97, 1.03, 5)
        now, gap, level = 0.2 + number * rng.uniform(0.25, 0.6), rng.uniform(0.22, 0.32), 1.0
        while gap > 0.012 and now < seconds:
            ring = modes(base * ratios, np.array([0.07, 0.09, 0.06, 0.07, 0.04]),
                         rng.uniform(0.4, 1, 5), sample_rate=sample_rate, rng=rng)  # fmt: skip
            add(ring, 0.3 * burst(0.002, band(500, 4000), sample_rate=sample_rate, rng=rng), at=0)
            add(mix, level * ring, at=num_samples(now, sample_rate))
            now, gap, level = now + gap, gap * rng.uniform(0.72, 0.8), level * 0.82
    return filtered(mix, band(300, 14_000, order=1), sample_rate=sample_rate)


def fireworks(
    seconds: float, *, sample_rate: int, rng: np.random.Generator, speed: float
) -> np.ndarray:
    """Shells that burst with a boom, and the crackle that falls after some of them."""
    mix = np.zeros(num_samples(seconds, sample_rate))
    for start in [0.3, *(0.3 + poisson(seconds - 1, speed, rng=rng))]:
        boom = burst(rng.uniform(0.08, 0.2), band(30, 220, order=1), attack=0.003,
                     sample_rate=sample_rate, rng=rng)  # fmt: skip
        add(boom, 0.8 * burst(0.02, band(100, 3000, order=1), sample_rate=sample_rate, rng=rng),
            at=0)  # fmt: skip
        level = rng.uniform(0.4, 1)
        add(mix, level * boom, at=num_samples(start, sample_rate))
        if rng.random() < 0.6:
            for delay in rng.gamma(3, 0.25, 60):
                snap = burst(0.002, band(1500, 9000), sample_rate=sample_rate, rng=rng)
                at = num_samples(start + 0.2 + delay, sample_rate)
                add(mix, level * rng.exponential(0.1) * snap, at=at)
    return mix


EFFECTS = {
    "church bell": Effect(
        make=church_bell,
        attributes={
            "pitch": {"deep": (160, 240), "": (280, 380), "high": (480, 700)},
            "speed": {"slow": (0.28, 0.38), "": (0.5, 0.65), "fast": (0.9, 1.3)},
        },
        places=OUTDOORS,
        seconds=(5.0, 9.0),
    ),
    "footsteps": Effect(
        make=footsteps,
        attributes={
            "speed": {"slow": (1.2, 1.5), "": (1.8, 2.0), "running": (2.7, 3.2)},
            "surface": {"wood": (0, 0), "gravel": (1, 1), "stone": (2, 2)},
        },
    ),
    "knocking": Effect(
        make=knocking,
        attributes={
            "count": {"two": (2, 2), "three": (3, 3), "four": (4, 4)},
            "strength": {"gentle": (0.6, 0.75), "": (0.9, 1.0), "hard": (1.2, 1.35)},
        },
    ),
    "typing": Effect(
        make=typing, attributes={"speed": {"slow": (2, 3), "": (5, 6.5), "fast": (9, 12)}}
    ),
    "hammering": Effect(
        make=hammering,
        attributes={
            "speed": {"slow": (0.9, 1.3), "": (1.8, 2.3), "fast": (3.2, 4.5)},
            "material": {"wood": (0, 0), "metal": (1, 1)},
        },
    ),
    "glass": Effect(
        make=glass,
        attributes={"size": {"small": (25, 40), "": (70, 100), "large": (160, 220)}},
        seconds=(3.0, 4.0),
    ),
    "heartbeat": Effect(
        make=heartbeat,
        attributes={"speed": {"slow": (50, 62), "": (70, 82), "fast": (110, 145)}},
        places=(),
    ),
    "applause": Effect(
        make=applause,
        attributes={"people": {"one": (1, 1), "few": (5, 9), "many": (220, 350)}},
    ),
    "bouncing ball": Effect(
        make=ball, attributes={"speed": {"slow": (0.9, 1.2), "": (1.6, 1.9), "fast": (2.8, 3.5)}}
    ),
    "coins": Effect(
        make=coins,
        attributes={"count": {"one": (1, 1), "several": (4, 7)}},
        seconds=(3.0, 5.0),
    ),
    "fireworks": Effect(
        make=fireworks,
        attributes={"speed": {"": (0.6, 1.2), "many": (2.5, 4)}},
        places=OUTDOORS,
        seconds=(4.0, 9.0),
    ),
}
