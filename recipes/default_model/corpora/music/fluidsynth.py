"""Renders scores with fluidsynth, which plays soundfonts in a separate process.

Loading a soundfont takes longer than playing a piece, so one MIDI file holds many pieces, each
followed by silence for the reverberation to fade.
"""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from corpora.music.instruments import INSTRUMENTS
from corpora.music.scores import Score
from corpora.signals import num_samples

SILENCE = 1.2  # seconds after each piece
DRUM_CHANNEL = 9
# How loud each role is in the mix, of 127.
VOLUMES = {"melody": 118, "chords": 66, "bass": 88, "drums": 86}
ALL_SOUND_OFF, VOLUME, RESET = 120, 7, 121


def check_fluidsynth(soundfont: Path) -> None:
    """Raises ValueError if the program or the soundfont is missing."""
    if shutil.which("fluidsynth") is None:
        raise ValueError(
            "fluidsynth was not found; install it with: apt-get install fluidsynth "
            "fluid-soundfont-gm, or use --engine simple."
        )
    if not soundfont.is_file():
        raise ValueError(
            f"The soundfont {soundfont} does not exist; install it with: apt-get install "
            "fluid-soundfont-gm, or pass another one as --soundfont."
        )


def render_scores(
    scores: Sequence[Score], *, sample_rate: int, soundfont: Path
) -> list[np.ndarray]:
    """Plays each score: [N] each, in mono."""
    with TemporaryDirectory() as folder:
        midi, raw = Path(folder) / "scores.mid", Path(folder) / "scores.raw"
        midi_file(scores).save(midi)
        settings = ["-ni", "-q", "-R", "1", "-C", "0", "-g", "0.6", "-r", str(sample_rate)]
        output = ["-T", "raw", "-O", "float", "-E", "little", "-F", str(raw)]
        done = subprocess.run(
            ["fluidsynth", *settings, *output, str(soundfont), str(midi)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not raw.exists():
            raise RuntimeError(f"fluidsynth failed: {done.stderr.strip()[-500:]}")
        sound = np.fromfile(raw, "<f4").reshape(-1, 2).mean(axis=1)
    pieces = []
    for score, start in zip(scores, _starts(scores), strict=True):
        begin = num_samples(start, sample_rate) if start else 0
        piece = sound[begin : begin + num_samples(score.seconds, sample_rate)]
        if len(piece) < num_samples(score.seconds, sample_rate):
            raise RuntimeError(f"fluidsynth stopped early, in piece {score.number}.")
        pieces.append(piece)
    return pieces


def midi_file(scores: Sequence[Score]) -> Any:
    """A `mido.MidiFile` of the scores, one after the other; a tick is a millisecond."""
    try:
        import mido
    except ImportError as error:
        raise ValueError(
            "Writing MIDI needs mido; install it with: pip install 'lm-audio[data]'."
        ) from error
    events: list[tuple[int, int, Any]] = []  # milliseconds, what goes first, message
    for score, start in zip(scores, _starts(scores), strict=True):
        for channel, part in zip(_channels(score), score.parts, strict=True):

            def at(
                seconds: float, order: int, kind: str, *, channel: int = channel, **values: int
            ) -> None:
                message = mido.Message(kind, channel=channel, **values)
                events.append((round(1000 * seconds), order, message))

            at(start, 0, "control_change", control=RESET, value=0)
            at(start, 1, "program_change", program=INSTRUMENTS[part.instrument].program)
            at(start, 1, "control_change", control=VOLUME, value=VOLUMES[part.role])
            beat = 60 / score.tempo
            for note in part.notes:
                begin, end = note.start * beat, (note.start + note.length) * beat
                if begin < score.seconds - 0.05:
                    at(start + begin, 3, "note_on", note=note.pitch, velocity=note.velocity)
                    at(start + min(end, score.seconds), 2, "note_off", note=note.pitch)
            at(start + score.seconds + 0.01, 4, "control_change", control=ALL_SOUND_OFF, value=0)
    events.sort(key=lambda event: event[:2])  # at one time, a note ends before the next begins
    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=500_000)])
    now = 0
    for when, _, message in events:
        track.append(message.copy(time=when - now))
        now = when
    track.append(mido.MetaMessage("end_of_track", time=round(1000 * SILENCE)))
    return mido.MidiFile(ticks_per_beat=500, tracks=[track])


def _starts(scores: Sequence[Score]) -> list[float]:
    """When each piece begins, in whole milliseconds as MIDI has it here."""
    lengths = [0.0, *(score.seconds + SILENCE for score in scores[:-1])]
    return [round(float(start), 3) for start in np.cumsum(lengths)]


def _channels(score: Score) -> list[int]:
    free = iter(channel for channel in range(16) if channel != DRUM_CHANNEL)
    return [DRUM_CHANNEL if part.role == "drums" else next(free) for part in score.parts]
