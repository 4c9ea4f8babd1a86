"""What reproduces a clip: the settings that its file stores, named as on the command line.

Settings that the command line does not have are stored too; see `origin.command`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from lm_audio.generation.blend import Blend
from lm_audio.generation.request import Request, name_of, sampling_of
from lm_audio.generation.story import Story
from lm_audio.generation.track import Stage
from lm_audio.origin import UNNAMED

Verb = Literal["generate", "continue", "inpaint", "vary", "upsample"]
_DIGITS = 6  # of seconds: finer than a sample


def clip_settings(
    verb: Verb,
    request: Request,
    *,
    stages: Sequence[Stage],
    loaded: Mapping[str, str | None],
    **given: object,
) -> dict[str, Any]:
    """The settings of a clip, ready for JSON; those at their defaults are left out.

    Args:
        loaded: what `load` was given.
        given: settings of this verb, such as duration in seconds.
    """
    settings = {
        "verb": verb,
        _prompt_name(verb, request): None if request.prompt is None else str(request.prompt),
        "seed": request.seed,
        **{k: round(v, _DIGITS) if isinstance(v, float) else v for k, v in given.items()},
        "negative": request.negative.get("text"),
        **_conditions({k: v for k, v in request.conditions.items() if k != "text"}),
        "raw": request.raw or None,
        "overlap": request.overlap,
        "loop": request.loop or None,
        "strength": request.strength,
        "towards": None if request.towards is None else name_of(request.towards) or UNNAMED,
        "share": request.share,
        "tokens": list(request.tokens) or None,
        **_sampling(request, [stage for stage in stages if stage.name not in request.tokens]),
        **loaded,
    }
    return {name: value for name, value in settings.items() if value is not None}


def _prompt_name(verb: Verb, request: Request) -> str:
    if isinstance(request.prompt, Story):
        return "story"
    if isinstance(request.prompt, Blend):
        return "blend"
    return "prompt" if verb == "generate" else "text"


def _conditions(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """As the option --condition takes them, if they are text or numbers."""
    if not conditions:
        return {}
    plain = str | int | float | Path
    if all(isinstance(value, plain) for value in conditions.values()):
        texts = {name: str(value).removesuffix(".0") for name, value in conditions.items()}
        return {"condition": [f"{name}={text}" for name, text in texts.items()]}
    return {
        "conditions": {
            name: str(value) if isinstance(value, plain) else "audio"
            for name, value in conditions.items()
        }
    }


def _sampling(request: Request, stages: Sequence[Stage]) -> dict[str, Any]:
    """The changes to the stages' own sampling: by name where all stages agree, else by stage."""
    changes: dict[str, dict[str, Any]] = {}
    values: dict[str, list[Any]] = {}
    for stage in stages:
        sampling = sampling_of(stage, request)
        if sampling is None:
            continue
        for name in (field.name for field in fields(sampling)):
            value = getattr(sampling, name)
            values.setdefault(name, []).append(value)
            if value != getattr(stage.sampling, name):
                plain = dict(value) if isinstance(value, Mapping) else value
                changes.setdefault(name, {})[stage.name] = plain
    found: dict[str, Any] = {}
    for name, by_stage in changes.items():
        first, *others = values[name]
        if all(other == first for other in others):
            found[name] = next(iter(by_stage.values()))
        else:
            for stage_name, value in by_stage.items():
                found.setdefault("sampling", {}).setdefault(stage_name, {})[name] = value
    return found
