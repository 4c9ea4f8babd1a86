"""Writes docs/cli.md from the verbs of the command line.

python docs/make_cli.py
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from lm_audio.cli import VERBS
from lm_audio.cli.generate import ModelOptions, RequestOptions, SamplingOptions
from lm_audio.cli.outputs import OutputOptions

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Made from the code by `python docs/make_cli.py`; `lm-audio VERB --help` says the same.
Exit status 0 is success; 2 is a mistake of yours, told in one line; 130 is Ctrl-C.
"""


SHARED = {
    ModelOptions: "The model",
    RequestOptions: "The request",
    SamplingOptions: "Sampling",
    OutputOptions: "What becomes of it",
}
"""Options of several verbs."""
POSITIONAL = get_args(tyro.conf.Positional[int])[1]


def page() -> str:
    """The text of the page."""
    verbs = "".join(section(f"lm-audio {name}", verb) for name, verb in VERBS.items())
    shared = [f"\n### {title}\n{table(kind)}" for kind, title in SHARED.items()]
    return "".join([HEAD, verbs, "\n## Options of several verbs\n", *shared])


def section(name: str, verb: type) -> str:
    """A verb, or those below it."""
    below = list(subverbs(verb))
    if below:
        return "".join(section(f"{name} {kind.__name__.lower()}", kind) for kind in below)
    said = textwrap.fill(" ".join(str(inspect.getdoc(verb)).split()), 120)
    links = [link(SHARED[kind]) for kind in inner(verb)]
    more = f"\nAnd: {', '.join(links)}.\n" if links else ""
    return f"\n## {name}\n\n{said}\n{table(verb)}{more}"


def link(title: str) -> str:
    return f"[{title[0].lower()}{title[1:]}](#{title.lower().replace(' ', '-')})"


def inner(verb: type) -> list[type]:
    """The options that it shares with others."""
    hints = get_type_hints(verb, include_extras=True)
    return [plain(hint) for hint in hints.values() if is_dataclass(plain(hint))]


def table(kind: type) -> str:
    """Its own options."""
    rows = [f"| `{name}` | {text} |\n" for name, text in options(kind)]
    return "".join(["\n| option | |\n|---|---|\n", *rows]) if rows else ""


def subverbs(verb: type) -> Iterator[type]:
    """The choices of a field that is one of several verbs."""
    for hint in get_type_hints(verb, include_extras=True).values():
        for choice in get_args(plain(hint)):
            if is_dataclass(plain(choice)):
                yield plain(choice)


def options(kind: type) -> Iterator[tuple[str, str]]:
    """Each option as it is written, and what it does."""
    said = field_docs(kind)
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint = hints[field.name]
        if is_dataclass(plain(hint)):
            continue
        dashed = field.name.replace("_", "-")
        written = f"--{dashed}"
        if plain(hint) is bool:
            written += f", --no-{dashed}"
        marks = hint.__metadata__ if get_origin(hint) is Annotated else ()
        if any("-o" in (getattr(mark, "aliases", None) or ()) for mark in marks):
            written = f"-o, {written}"
        if POSITIONAL in marks:
            written = field.name.upper()
        yield written, f"{said[field.name]}{default_of(field)}"


def plain(hint: Any) -> Any:
    return plain(get_args(hint)[0]) if get_origin(hint) is Annotated else hint


def field_docs(kind: type) -> dict[str, str]:
    """The strings below the fields of a class and of those it comes from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, [*tree.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                is_said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = str(after.value.value) if is_said else ""  # type: ignore[union-attr]
                found[field.target.id] = " ".join(text.split()).replace("|", "\\|")
    return found


def default_of(field: "Field[Any]") -> str:
    if field.default is MISSING:
        return " (required)" if field.default_factory is MISSING else ""
    if field.default is None or field.default == () or isinstance(field.default, bool):
        return ""
    return f" Default: `{field.default}`."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
