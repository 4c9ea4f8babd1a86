"""The captions of music: who plays, how fast, in which mood and key; some are kept for tests."""

from dataclasses import replace

import numpy as np

from corpora.captions import Wording, write_captions
from corpora.music.scores import Score

PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "tune": {
        "melody": ("melody", "tune"),
        "bass": ("bass line", "riff"),
        "drums": ("groove", "beat"),
    },
    "pace": {"slow": ("slow", "unhurried"), "fast": ("fast", "quick")},
    "mood": {
        "happy": ("happy", "cheerful", "joyful"),
        "sad": ("sad", "sorrowful", "melancholic"),
        "calm": ("calm", "peaceful", "relaxing"),
        "tense": ("tense", "nervous", "restless"),
        "solemn": ("solemn", "stately", "dignified"),
        "romantic": ("romantic", "tender", "warm"),
        "mysterious": ("mysterious", "eerie", "dark"),
        "energetic": ("energetic", "upbeat", "lively"),
    },
    "density": {
        "sparse": ("with long notes", "with few notes"),
        "busy": ("with many notes", "full of notes"),
    },
}
# What the players are called; the others take the article alone.
PLAYERS = {
    "drums": ("drums", "a drum kit"),
    "strings": ("strings", "a string ensemble"),
    "choir": ("a choir", "voices singing ah"),
    "bass": ("an electric bass", "a bass guitar"),
    "music box": ("a music box",),
    "synthesizer": ("a synthesizer", "an electronic synth"),
}

SOLO = Wording(
    templates=(
        "a {pace} {mood} {tune} played by {lead} {density} in {key} {tempo}",
        "{lead} playing a {pace} {mood} {tune} {density} in {key} {tempo}",
        "{pace} {mood} solo music for {lead} in {key} {tempo} {density}",
        "a {pace} {mood} {name} {tune} in {key}",
        "{pace} {mood} {name} music",
        "{lead} alone, {mood}[ and {pace}], {tempo}",
    ),
    unseen=(
        "a {mood} {pace} theme performed on {lead}, {key}",
        "listen to {lead}: {mood}[, {pace}], {tempo}",
        "a recital of {lead} in {key} that sounds {mood}",
    ),
    phrases=PHRASES,
)
TOGETHER = Wording(
    templates=(
        "a {pace} {mood} {tune} of {lead} accompanied by {others} {density} in {key} {tempo}",
        "{pace} {mood} music for {lead} with {others} in {key} {tempo} {density}",
        "{lead} playing a {pace} {mood} {tune} over {others} in {key} {tempo} {density}",
        "{pace} {mood} {name} {tune} with {others} in {key}",
        "{pace} {mood} {name} and {others} {tempo}",
        "{lead} together with {others}, {mood}[ and {pace}]",
        "a {pace} {mood} piece for {lead} and {others}, {tempo}",
    ),
    unseen=(
        "{lead} backed by {others} in a {mood} {pace} number, {key}",
        "an ensemble of {lead} plus {others}: {mood}, {tempo}",
        "a {mood} song without words, {lead} in front of {others}",
    ),
    phrases=PHRASES,
)
RHYTHM = Wording(
    templates=(
        "{pace} {mood} drums {tempo} {density}",
        "a {pace} {mood} drum groove {tempo} {density}",
        "a drummer plays a {pace} {mood} beat {tempo} {density}",
        "a {pace} {mood} drum solo",
        "{pace} drums",
    ),
    unseen=("a {mood} {pace} rhythm on a drum set, {tempo}", "percussion only: {mood}, {pace}"),
    phrases={**PHRASES, "density": {"sparse": ("", "with few strokes"),
                                    "busy": ("with many strokes", "with a busy pattern")}},
)  # fmt: skip


def describe_score(score: Score) -> dict[str, str | float]:
    """The attributes of a piece, as conditions of a model."""
    found: dict[str, str | float] = {
        "label": score.parts[0].instrument,
        "instruments": ", ".join(score.instruments),
        "tempo": float(score.tempo),
        "mood": score.mood,
    }
    if score.instruments != ["drums"]:
        found["key"] = score.harmony.key
    return found


def score_captions(score: Score, *, count: int, unseen: bool = False) -> list[str]:
    """Different captions of a piece, the most telling one first; `unseen` ones are for tests."""
    rng = np.random.default_rng([score.seed, score.number, 3 if unseen else 2])
    lead, *others = score.instruments
    wording = TOGETHER if others else RHYTHM if lead == "drums" else SOLO
    words = {
        "pace": score.pace,
        "mood": score.mood,
        "density": score.density,
        "lead": lead,
        "name": lead,
        "tune": score.parts[0].role,
        "others": " ".join(others),
        "key": score.harmony.key,
        "tempo": str(score.tempo),
    }
    said = {
        **wording.phrases,
        "lead": {lead: PLAYERS.get(lead, (f"a {lead}",))},
        "others": {words["others"]: _players(others)},
        "tempo": {
            words["tempo"]: tuple(
                f"at {score.tempo} {unit}" for unit in ("bpm", "beats per minute")
            )
        },
    }
    return write_captions(
        replace(wording, phrases=said), words, count=count, rng=rng, unseen=unseen
    )


def _players(names: list[str]) -> tuple[str, ...]:
    """ "a piano, a bass and drums", and the same without articles."""
    if not names:
        return ("",)
    full = [PLAYERS.get(name, (f"a {name}",))[0] for name in names]
    return tuple(
        " and ".join([", ".join(way[:-1]), way[-1]] if way[1:] else way) for way in (full, names)
    )
