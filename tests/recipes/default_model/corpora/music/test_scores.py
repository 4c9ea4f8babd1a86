"""Pieces follow the rules that their captions rely on: key, range, cadence, tempo, roles."""

import itertools
from collections import Counter

import pytest

from corpora.music.harmony import NAMES, Harmony
from corpora.music.instruments import INSTRUMENTS
from corpora.music.scores import MOODS, Score, compose

SCORES = [compose(number, seed=0) for number in range(210)]


def melodies() -> list[tuple[Score, list[int]]]:
    return [
        (score, [note.pitch for note in score.parts[0].notes])
        for score in SCORES
        if score.parts[0].role == "melody"
    ]


def test_a_piece_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert compose(5, seed=0) == SCORES[5]
    assert compose(5, seed=1) != SCORES[5]


def test_every_instrument_leads_equally_often() -> None:
    leads = Counter(score.instruments[0] for score in SCORES)
    assert set(leads) == set(INSTRUMENTS)
    assert set(leads.values()) == {10}


def test_pieces_last_four_to_ten_seconds_and_end_before_the_clip_does() -> None:
    for score in SCORES:
        assert 4 <= score.seconds <= 10
        assert score.harmony.num_beats * 60 / score.tempo <= score.seconds
        assert all(note.start <= score.harmony.num_beats + 0.1 for note in score.parts[0].notes)


def test_pieces_of_a_kind_are_as_long_as_asked_and_played_by_one() -> None:
    for number in range(60):
        score = compose(number, seed=0, solo="piano", lengths=(10, 20))
        assert score.instruments == ["piano"]
        assert 10 <= score.seconds <= 20
        assert score.harmony.num_beats * 60 / score.tempo <= score.seconds


def test_a_melody_stays_in_its_scale_and_its_range() -> None:
    for score, pitches in melodies():
        instrument = INSTRUMENTS[score.parts[0].instrument]
        allowed = set(score.harmony.scale_pitches())
        if score.harmony.mode == "minor":
            allowed.add((score.harmony.tonic + 11) % 12)
        assert {pitch % 12 for pitch in pitches} <= allowed
        assert instrument.low <= min(pitches)
        assert max(pitches) <= instrument.high


def test_a_melody_moves_mostly_by_small_steps_and_ends_on_the_tonic() -> None:
    steps = Counter[int]()
    for score, pitches in melodies():
        assert pitches[-1] % 12 == score.harmony.tonic
        steps.update(abs(b - a) for a, b in itertools.pairwise(pitches))
    small = sum(number for step, number in steps.items() if step <= 4)
    assert small / steps.total() > 0.75


def test_a_melody_is_one_note_at_a_time() -> None:
    for score in SCORES:
        if score.parts[0].role == "melody":
            notes = sorted(score.parts[0].notes, key=lambda note: note.start)
            gaps = [b.start - a.start for a, b in itertools.pairwise(notes)]
            assert min(gaps) > 0.1


def test_chords_lead_through_the_dominant_home() -> None:
    for score in SCORES:
        degrees = score.harmony.degrees
        assert degrees[-1] == 0
        assert len(degrees) == (8 if score.harmony.num_bars == 8 else 4)
        if score.harmony.num_bars == 8:
            assert degrees[3] == 4


def test_moods_have_their_modes_and_tempos() -> None:
    assert {score.mood for score in SCORES} == set(MOODS)
    for score in SCORES:
        mood = MOODS[score.mood]
        assert score.harmony.mode in mood.modes
        assert mood.tempo[0] <= score.tempo <= mood.tempo[1]
        assert score.pace == ("slow" if score.tempo < 82 else "fast" if score.tempo > 116 else "")


def test_a_busy_melody_has_more_notes_a_beat_than_a_sparse_one() -> None:
    rates: dict[str, list[float]] = {}
    for score, pitches in melodies():
        rates.setdefault(score.density, []).append(len(pitches) / score.harmony.num_beats)
    means = {density: sum(values) / len(values) for density, values in rates.items()}
    assert means["sparse"] < means[""] < means["busy"]


@pytest.mark.parametrize(
    ("tonic", "mode", "beat", "expected"),
    [(0, "major", 0, {0, 4, 7}), (0, "major", 9, {7, 11, 2}), (9, "minor", 8, {4, 8, 11})],
)
def test_chords_are_the_triads_of_the_key(
    tonic: int, mode: str, beat: float, expected: set[int]
) -> None:
    harmony = Harmony(
        tonic=tonic,
        mode=mode,  # type: ignore[arg-type]
        beats_per_bar=4,
        num_bars=4,
        degrees=(0, 3, 4, 0),
    )
    assert set(harmony.chord_pitches(beat)) == expected


def test_keys_have_their_usual_names() -> None:
    assert NAMES["major"][1] == "D flat"
    assert NAMES["minor"][1] == "C sharp"
    assert NAMES["minor"][9] == "A"
