"""The command line of a recipe, made from its settings: a user's mistake gets one line.

LM_AUDIO_TRACEBACK=1 in the environment shows the traceback instead, to debug a recipe.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tyro
from safetensors import SafetensorError

from lm_audio.cli.arguments import METAVARS
from lm_audio.cli.deprecated import with_new_names

Config = TypeVar("Config")


def run_recipe(
    main: Callable[[Config], object],
    settings: type[Config] | Mapping[str, Any],
    *,
    options: Sequence[str] = ("preset",),
    description: str | None,
    renamed: Mapping[str, str] | None = None,
) -> None:
    """Calls `main` with the settings of the command line; exit status 2 for a user's mistake.

    Args:
        settings: their type, or the defaults of each preset, which the command line overrides.
        options: the options that choose the defaults. With several, `settings` is a nested mapping,
            and the first option is a key of the outermost one.
        description: the recipe's docstring.
        renamed: new option names by old ones, which still work; see cli/deprecated.py.
    """
    if renamed:
        sys.argv[1:] = with_new_names(sys.argv[1:], renamed, program=_name())
    try:
        main(_read(settings, options, description))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # SafetensorError may mean a full disk, ModuleNotFoundError a missing extra.
    except (ValueError, OSError, SafetensorError, ModuleNotFoundError) as error:
        _stop(error, status=2)
    except FloatingPointError as error:  # a run that diverged
        _stop(error, status=1)
    except KeyboardInterrupt:
        print(f"{_name()}: interrupted. Run the same command again to resume.", file=sys.stderr)
        sys.exit(130)


def _read(
    settings: type[Config] | Mapping[str, Any], options: Sequence[str], description: str | None
) -> Config:
    if isinstance(settings, type):
        _make_readable(settings)
        return tyro.cli(settings, description=description)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(f"--{option}")
    chosen = parser.parse_known_args()[0]
    default: Any = settings
    for option in options:
        usual = next(
            (name for name in ("small", "default") if name in default), next(iter(default))
        )
        name = getattr(chosen, option) or usual
        if name not in default:
            known = ", ".join(default)
            raise ValueError(f"unknown {option} {name!r}; choose one of: {known}.")
        default = default[name]
    _make_readable(type(default))
    return tyro.cli(type(default), default=default, description=description)


def _make_readable(kind: type) -> None:
    """Annotates the fields so that help shows values and defaults as that of lm-audio does."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bare = [one for one in get_args(hint) if one is not type(None)]
        (value,) = bare if type(None) in get_args(hint) and len(bare) == 1 else (hint,)
        if isinstance(value, type) and is_dataclass(value):
            _make_readable(value)
            continue
        arg = tyro.conf.arg(metavar=_metavar(value), help_behavior_hint=_default)
        kind.__annotations__[name] = Annotated[hint, arg]


def _metavar(value: Any) -> str | None:
    """A word for a value; None leaves it to tyro, as for choices."""
    if get_origin(value) is tuple and get_args(value)[1:] == (...,):
        word = METAVARS.get(get_args(value)[0])
        return word and f"[{word} ...]"
    if get_origin(value) is Literal:
        return f"{{{','.join(map(str, get_args(value)))}}}"
    return METAVARS.get(value)


def _default(value: str) -> str:
    return f"(default: {value})" if value not in ("", "None") else ""


def _stop(error: Exception, *, status: int) -> None:
    if os.environ.get("LM_AUDIO_TRACEBACK"):
        raise error
    print(f"{_name()}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(status)


def _name() -> str:
    return Path(sys.argv[0]).name
