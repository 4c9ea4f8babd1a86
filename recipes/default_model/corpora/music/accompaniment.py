"""What is played below a melody: chords, a bass, drums."""

import numpy as np

from corpora.music.harmony import Harmony, Note

KICK, STICK, SNARE, CLOSED_HAT, OPEN_HAT, CRASH, RIDE = 36, 37, 38, 42, 46, 49, 51
HIGH_TOM, MIDDLE_TOM, LOW_TOM = 50, 47, 45


def chord_pattern(
    harmony: Harmony, *, density: str, sustained: bool, rng: np.random.Generator
) -> list[Note]:
    """Chords held, struck on beats, broken, or with the bass first; always near middle C."""
    style = str(rng.choice(["held"] if sustained else ["struck", "broken", "bass first"]))
    if sustained and density == "busy":
        style = "struck"
    step = 0.5 if density == "busy" else 1.0
    notes, voicing = [], np.array([55, 59, 62])
    for number in range(len(harmony.degrees)):
        begin = number * harmony.beats_per_chord
        end = begin + harmony.beats_per_chord
        voicing = _nearest(harmony.chord_pitches(begin), voicing)
        if style == "held" or number == len(harmony.degrees) - 1:
            notes += [_note(begin, end - begin, pitch) for pitch in voicing]
            continue
        root = 36 + harmony.chord_pitches(begin)[0]
        for index, now in enumerate(np.arange(begin, end, step)):
            if style == "broken":
                pitches = [int(voicing[[0, 1, 2, 1][index % 4]])]
            elif style == "bass first" and index == 0:
                pitches = [root]
            else:
                pitches = [int(pitch) for pitch in voicing]
            notes += [_note(float(now), step, pitch) for pitch in pitches]
    return notes


def _nearest(classes: list[int], voicing: np.ndarray) -> np.ndarray:
    """Three pitches, one of each class, that move as little as they can from the last ones."""
    order = [np.roll(classes, turn) for turn in range(3)]
    options = []
    for inversion in order:
        pitches = np.array([_near(c, v) for c, v in zip(inversion, voicing, strict=True)])
        options.append(np.sort(pitches))
    return min(options, key=lambda o: float(np.abs(o - voicing).sum() + 0.3 * abs(o.mean() - 58)))


def _near(pitch_class: int, pitch: int) -> int:
    return int(pitch + (pitch_class - pitch + 6) % 12 - 6)


def _note(start: float, length: float, pitch: int) -> Note:
    return Note(start=start, length=0.95 * length, pitch=int(pitch), velocity=66)


def bass_line(harmony: Harmony, *, density: str, low: int, rng: np.random.Generator) -> list[Note]:
    """Roots and fifths; a busy one beats eighths, a walking one goes through the scale."""
    walking = density == "" and rng.random() < 0.3
    notes, scale = [], harmony.scale_pitches()
    for number in range(len(harmony.degrees)):
        begin = number * harmony.beats_per_chord
        end = begin + harmony.beats_per_chord
        root, third, fifth = (low + (pitch - low) % 12 for pitch in harmony.chord_pitches(begin))
        if density == "sparse" or number == len(harmony.degrees) - 1:
            notes.append(_bass(begin, end - begin, root))
        elif density == "busy":
            notes += [_bass(float(now), 0.5, root) for now in np.arange(begin, end, 0.5)]
        else:
            walk = [root, third, fifth, _neighbour(fifth, scale)] if walking else [root, fifth]
            for index, now in enumerate(np.arange(begin, end, 1.0)):
                length = min(1.0, end - now)
                notes.append(_bass(float(now), length, walk[index % len(walk)]))
    return notes


def _neighbour(pitch: int, scale: list[int]) -> int:
    return next(p for p in range(pitch + 1, pitch + 12) if p % 12 in scale)


def _bass(start: float, length: float, pitch: int) -> Note:
    return Note(start=start, length=0.92 * length, pitch=pitch, velocity=84)


def drum_pattern(harmony: Harmony, *, density: str, rng: np.random.Generator) -> list[Note]:
    """A groove, the same in each bar, a fill at the end and a crash on the last chord."""
    beats = harmony.beats_per_bar
    groove = _groove(beats, density, rng)
    hits: list[tuple[float, int, int]] = []
    for bar in range(harmony.num_bars):
        start = bar * beats
        last = bar == harmony.num_bars - 1
        hits += [(start + at, drum, force) for at, drum, force in groove
                 if not (last and at >= beats - 1)]  # fmt: skip
        if bar % 4 == 0:
            hits.append((start, CRASH if density == "busy" else RIDE, 80))
    for index, drum in enumerate([SNARE, HIGH_TOM, MIDDLE_TOM, LOW_TOM]):
        hits.append((harmony.num_beats - 1 + index / 4, drum, 88))
    hits += [(harmony.num_beats, CRASH, 90), (harmony.num_beats, KICK, 96)]
    return [Note(start=at, length=0.2, pitch=drum, velocity=force) for at, drum, force in hits]


def _groove(beats: int, density: str, rng: np.random.Generator) -> list[tuple[float, int, int]]:
    """One bar: (beat, drum, velocity)."""
    hat_step = {"sparse": 1.0, "": 0.5, "busy": 0.25 if rng.random() < 0.4 else 0.5}[density]
    cymbal = RIDE if rng.random() < 0.25 else CLOSED_HAT
    bar = [(float(at), cymbal, 72 if at == int(at) else 56) for at in np.arange(0, beats, hat_step)]
    if beats == 3:
        return [*bar, (0.0, KICK, 98), (1.0, STICK, 74), (2.0, STICK, 74)]
    kicks = [[0.0, 2.0], [0.0, 1.5, 2.0], [0.0, 1.0, 2.0, 3.0], [0.0, 2.5]][rng.integers(4)]
    snare = STICK if density == "sparse" else SNARE
    bar += [(at, KICK, 98) for at in kicks] + [(at, snare, 92) for at in (1.0, 3.0)]
    if density == "busy" and rng.random() < 0.5:
        bar.append((3.5, OPEN_HAT, 70))
    return bar
