"""How a clip was made: its settings as JSON in the metadata of a file, in ASCII for all formats."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audio_tokenizers.audio_files import audio_info
from audio_tokenizers.containers import BinarySource
from lm_audio.version import __version__

MAKER = "lm-audio"
_CUT = "\N{HORIZONTAL ELLIPSIS}"
UNNAMED = "AUDIO"
"""Stands for audio that was never a file."""
_PLACES = ("prompt", "audio")  # given by their place, not as an option
_DEFAULTS = {"model": "default", "dtype": "float32"}
_OPTIONS = {
    *("seed", "text", "duration", "start", "end", "num_candidates", "negative", "condition", "raw"),
    *("story", "blend", "loop", "strength", "towards", "share", "melody", "best_of"),
    *("from_rate", "noise_level"),
    *("steps", "solver", "eta"),
    *("guidance_scale", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
    *("model", "device", "dtype", "text_encoder", "judge", "watermark"),
}
"""Settings that the command line has; Python takes more, such as sampling by stage."""


def origin_comment(settings: Mapping[str, Any]) -> str:
    """A comment for a file; the longest texts are cut if it would be too long."""
    from audio_tokenizers.audio_writer import LONGEST_COMMENT

    facts = {MAKER: __version__, **{k: v for k, v in settings.items() if v is not None}}
    while len(comment := json.dumps(facts)) > LONGEST_COMMENT:
        name = max(facts, key=lambda name: len(json.dumps(facts[name])))
        text = str(facts[name]).rstrip(_CUT)
        facts[name] = text[: len(text) * 9 // 10] + _CUT
    return comment


def read_origin(path: str | Path | BinarySource) -> dict[str, Any]:
    """The settings in a file; none if lm-audio did not make it."""
    try:
        facts = json.loads(audio_info(path).comment)
    except json.JSONDecodeError:
        return {}
    return facts if isinstance(facts, dict) and MAKER in facts else {}


def command(origin: Mapping[str, Any]) -> str | None:
    """The command line that makes the clip again; None if there is none.

    AUDIO and MODEL stand for what was never a file: samples, or a model made in Python.
    """
    if "verb" not in origin or any(str(value).endswith(_CUT) for value in origin.values()):
        return None
    given = {name: value for name, value in origin.items() if name not in (MAKER, "verb", *_PLACES)}
    if not all(_is_option(name, value) for name, value in given.items()):
        return None
    if "story" in given and origin["verb"] != "generate":
        return None
    given.setdefault("model", "MODEL")
    words = ["lm-audio", str(origin["verb"])]
    place = next((str(origin[name]) for name in _PLACES if name in origin), None)
    if place is None and origin["verb"] != "generate":
        place = UNNAMED
    if place is not None and not place.startswith("-"):
        words.append(place)
    for name, value in given.items():
        if _DEFAULTS.get(name) == value:
            continue
        for one in value if isinstance(value, list) else [value]:
            option = f"--{name.replace('_', '-')}"
            if one is True:
                words.append(option)
                continue
            words += [f"{option}={one}"] if str(one).startswith("-") else [option, str(one)]
    if place is not None and place.startswith("-"):
        words += ["--", place]
    return shlex.join(words)


def _is_option(name: str, value: object) -> bool:
    is_single = not isinstance(value, list | Mapping)
    return name in _OPTIONS and (is_single or name == "condition")
