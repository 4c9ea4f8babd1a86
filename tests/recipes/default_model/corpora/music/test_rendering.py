"""What a score says is what sounds: the notes, their times and their levels."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from corpora.music.files import write_pieces
from corpora.music.fluidsynth import check_fluidsynth, midi_file, render_scores
from corpora.music.harmony import Note
from corpora.music.instruments import INSTRUMENTS
from corpora.music.scores import Part, Score, compose
from corpora.music.simple import render_score

RATE = 8_000
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.exists(), reason="needs fluidsynth"
)


def piece(instrument: str, *, pitch: int = 69, role: str = "melody", number: int = 0) -> Score:
    """One note, from beat 1 to beat 3 at 60 beats a minute."""
    note = Note(start=1.0, length=2.0, pitch=pitch, velocity=90)
    part = Part(instrument=instrument, role=role, notes=(note,))  # type: ignore[arg-type]
    score = compose(number, seed=0)
    return dataclasses.replace(score, parts=(part,), tempo=60, seconds=4.0)


def loudest(sound: np.ndarray) -> float:
    """The frequency of the highest peak in Hz."""
    return float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))


@pytest.mark.parametrize("instrument", ["flute", "piano", "strings"])
def test_simple_tones_have_the_pitch_and_the_time_of_their_note(instrument: str) -> None:
    sound = render_score(piece(instrument), sample_rate=RATE)
    assert sound.shape == (4 * RATE,)
    assert np.abs(sound[: RATE - 1]).max() == 0
    assert np.abs(sound[RATE : RATE + 2_000]).max() > 0.05
    assert np.abs(sound[int(3.5 * RATE) :]).max() < 0.01
    assert loudest(sound[RATE : 2 * RATE]) == pytest.approx(440, rel=0.01)


def test_every_instrument_and_drum_sounds_in_the_simple_engine() -> None:
    for number in range(len(INSTRUMENTS)):
        sound = render_score(compose(number, seed=1), sample_rate=RATE)
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() > 0.05


def test_midi_has_the_notes_at_their_milliseconds_and_drums_on_their_channel() -> None:
    scores = [piece("violin", pitch=70), piece("drums", pitch=38, role="drums")]
    now, found = 0, []
    for message in midi_file(scores).tracks[0]:
        now += message.time
        if message.type == "note_on":
            found.append((now, message.note, message.channel))
    assert found == [(1_000, 70, 0), (4_000 + 1_200 + 1_000, 38, 9)]


def test_a_note_ends_before_the_same_one_begins_again() -> None:
    score = piece("piano")
    notes = tuple(Note(start=at, length=1.0, pitch=60, velocity=90) for at in (0.0, 1.0))
    score = dataclasses.replace(score, parts=(dataclasses.replace(score.parts[0], notes=notes),))
    kinds = [m.type for m in midi_file([score]).tracks[0] if m.type.startswith("note")]
    assert kinds == ["note_on", "note_off", "note_on", "note_off"]


@needs_fluidsynth
def test_fluidsynth_plays_each_piece_in_its_time_whatever_comes_after() -> None:
    scores = [piece("flute", pitch=69 + number, number=number) for number in range(3)]
    sounds = render_scores(scores, sample_rate=RATE, soundfont=SOUNDFONT)
    for number, sound in enumerate(sounds):
        assert sound.shape == (4 * RATE,)
        assert np.abs(sound[: int(0.99 * RATE)]).max() < 1e-4  # nothing left of the one before
        expected = 440 * 2 ** (number / 12)
        assert loudest(sound[int(1.3 * RATE) : 2 * RATE]) == pytest.approx(expected, rel=0.01)
    first = render_scores(scores[:1], sample_rate=RATE, soundfont=SOUNDFONT)[0]
    np.testing.assert_array_equal(first, sounds[0])


def test_pieces_that_are_whole_are_not_written_again(tmp_path: Path) -> None:
    scores = [piece("piano", number=number) for number in range(2)]
    paths = [tmp_path / f"{number}.flac" for number in range(2)]
    write_pieces(paths, scores, sample_rate=RATE, soundfont=None)
    whole = [path.read_bytes() for path in paths]
    kept = paths[0].stat().st_mtime_ns
    paths[1].write_bytes(whole[1][:500])
    assert write_pieces(paths, scores, sample_rate=RATE, soundfont=None) == 2
    assert [path.read_bytes() for path in paths] == whole
    assert paths[0].stat().st_mtime_ns == kept


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="apt-get install fluidsynth"):
        check_fluidsynth(SOUNDFONT)
    program = tmp_path / "fluidsynth"
    program.write_text("")
    program.chmod(0o755)
    with pytest.raises(ValueError, match=r"missing.sf2 does not exist; install it"):
        check_fluidsynth(tmp_path / "missing.sf2")
