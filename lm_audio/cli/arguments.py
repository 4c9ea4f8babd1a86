"""The command line, made from dataclasses: parsing, mistakes as ValueError, and help.

A field is an option, and the string below it is its help. A field that is a dataclass is a group of
options, titled by the docstring of that class. EXAMPLES, a class variable, ends the help of a verb.
"""

import argparse
import ast
import difflib
import inspect
import math
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

METAVARS: dict[Any, str] = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
MAX_WIDTH = 100
_INDENT = 26


@dataclass(frozen=True)
class Arg:
    """What an annotation says of an option beyond its type.

    Args:
        metavar: stands for the value in help, such as SECONDS.
        short: a second name, such as -o.
        positional: given by its place, not by its name.
        at_least, at_most: limits of a number, both allowed.
        choices: the allowed values.
    """

    metavar: str = ""
    short: str | None = None
    positional: bool = False
    at_least: float = -math.inf
    at_most: float = math.inf
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a verb, as the command line has it."""

    name: str
    kind: Any  # int, float, str, Path, bool, or tuple for a repeatable option
    default: Any  # MISSING: required
    help: str
    arg: Arg

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        if self.arg.positional:
            return self.arg.metavar or self.name.upper()
        return "" if self.kind is bool else self.arg.metavar or METAVARS.get(self.kind, "TEXT")

    @property
    def usage(self) -> str:
        """`-o, --output PATH`, or the name of a positional argument."""
        if self.arg.positional:
            return self.metavar
        flags = [self.flag] if self.arg.short is None else [self.arg.short, self.flag]
        return f"{', '.join(flags)} {self.metavar}".rstrip()

    @property
    def text(self) -> str:
        """Its help, with its default."""
        stated = "(default" in self.help
        if self.default in (MISSING, None) or self.kind in (bool, tuple) or stated:
            return f"{self.help.rstrip('.')} (required)." if self.is_needed else self.help
        shown = f"{self.default:g}" if self.kind is float else str(self.default)
        return f"{self.help.rstrip('.')} (default: {shown})."

    @property
    def is_needed(self) -> bool:
        """Whether it must be given; a positional argument shows so in the usage."""
        return self.default is MISSING and not self.arg.positional

    def convert(self, text: str) -> Any:
        """The value of a text; raises ArgumentTypeError, to be printed after the option's name."""
        if self.arg.choices and text not in self.arg.choices:
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(self.arg.choices)}; got {text!r}"
            )
        if self.kind not in (int, float):
            return text if self.kind is tuple else self.kind(text)
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            wanted = "a whole number" if self.kind is int else "a number such as 2.5"
            raise argparse.ArgumentTypeError(f"takes {wanted}; got {text!r}")
        low, high = self.arg.at_least, self.arg.at_most
        if not low <= value <= high:
            limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
            raise argparse.ArgumentTypeError(f"must be {limits}; got {text}")
        return value


@dataclass(frozen=True, kw_only=True)
class VerbGroup:
    """Verbs below a verb, such as `recipes list`."""

    help: str
    verbs: Mapping[str, type]


Verbs = Mapping[str, "type | VerbGroup"]


def parse(verbs: Verbs, arguments: Sequence[str], *, program: str, description: str) -> Any:
    """The verb that the arguments name; prints help and exits on --help.

    Raises ValueError with one sentence on a mistake.
    """
    first, *rest = arguments or [""]
    if first in ("-h", "--help"):
        print(_overview(verbs, program, description))
        sys.exit(0)
    if first not in verbs:
        raise ValueError(f"{_unknown_verb(first, verbs)} See {program} --help.")
    verb = verbs[first]
    program = f"{program} {first}"
    if isinstance(verb, VerbGroup):
        return parse(verb.verbs, rest, program=program, description=verb.help)
    end = rest.index("--") if "--" in rest else len(rest)
    if {"-h", "--help"} & set(rest[:end]):
        print(help_text(verb, program))
        sys.exit(0)
    try:
        return _build(verb, _values(verb, rest))
    except ValueError as error:
        raise ValueError(f"{error} See {program} --help.") from None


def groups(verb: type, *, helps: bool = True) -> Iterator[tuple[str, list[Option]]]:
    """The options of a verb by title: its arguments, its own options, and groups of options.

    Args:
        helps: read their help, which takes longer.
    """
    hints: dict[str, Any] = get_type_hints(verb, include_extras=True)
    docs = _field_docs(verb) if helps else {}
    own, nested = [], []
    for field in fields(verb):
        kind, arg = _kind(hints[field.name])
        if is_dataclass(kind):
            nested.append(kind)
            continue
        text = docs.get(field.name, "")
        own.append(Option(name=field.name, kind=kind, default=field.default, help=text, arg=arg))
    for title, is_positional in (("Arguments", True), ("Options", False)):
        if some := [option for option in own if option.arg.positional == is_positional]:
            yield title, some
    for kind in nested:
        ((_, options),) = groups(kind, helps=helps)  # type: ignore[arg-type]  # it is a class
        yield str(inspect.getdoc(kind)).rstrip("."), options


def help_text(verb: type, program: str) -> str:
    """What --help prints."""
    found = list(groups(verb))
    names = [o.metavar for title, some in found if title == "Arguments" for o in some]
    required = {o.name for _, some in found for o in some if o.default is MISSING}
    places = [name if name.lower() in required else f"[{name}]" for name in names]
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    lines = [_filled(str(inspect.getdoc(verb)), width), ""]
    needed = [
        f"{option.arg.short or option.flag} {option.metavar}"
        for _, some in found
        for option in some
        if option.is_needed
    ]
    usage = " ".join(["Usage:", program, *places, *needed, "[OPTIONS]"])
    lines.append(textwrap.fill(usage, width, subsequent_indent="    ", break_on_hyphens=False))
    if not any(title == "Options" for title, _ in found):
        found.append(("Options", []))
    for title, options in found:
        rows = [(option.usage, option.text) for option in options]
        rows += [("-h, --help", "Show this help.")] if title == "Options" else []
        lines += ["", f"{title}:", *_rows(rows, width)]
    if examples := getattr(verb, "EXAMPLES", ()):
        lines += ["", "Examples:", *(f"  {example}" for example in examples)]
    return "\n".join(lines)


def _overview(verbs: Verbs, program: str, description: str) -> str:
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    rows = [(name, first_sentence(verb)) for name, verb in verbs.items()]
    options = [("-h, --help", "Show this help.")]
    if " " not in program:
        options.append(("--version", "Show the version."))
    return "\n".join(
        [
            _filled(description, width),
            "",
            f"Usage: {program} COMMAND [OPTIONS]",
            "",
            "Commands:",
            *_rows(rows, width, 12),
            "",
            "Options:",
            *_rows(options, width, 14),
            "",
            f"Run {program} COMMAND --help for options and examples.",
        ]
    )


def first_sentence(verb: "type | VerbGroup") -> str:
    text = verb.help if isinstance(verb, VerbGroup) else str(inspect.getdoc(verb))
    return " ".join(re.split(r"[.;]\s", f"{text}\n")[0].split()) + "."


def _unknown_verb(first: str, verbs: Verbs) -> str:
    if not first:
        return f"No command given. Choose one of: {', '.join(verbs)}."
    if first.startswith("-"):
        return f"Unknown option {first}."
    near = difflib.get_close_matches(first, verbs, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(verbs)}."
    return f"Unknown command {first!r}. {hint}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("argument "):  # argument -o/--output: expected one argument
            name, _, problem = message.removeprefix("argument ").partition(": ")
            if "expected one argument" in problem:
                problem = "needs a value"
            elif problem.startswith("ignored explicit"):
                problem = "takes no value"
            message = f"{name.split('/')[-1]} {problem}"
        raise ValueError(f"{message}.")


def _values(verb: type, arguments: Sequence[str]) -> dict[str, Any]:
    """The value of each option by name."""
    options = [option for _, some in groups(verb, helps=False) for option in some]
    parser = _Parser(add_help=False, allow_abbrev=False)
    for option in options:
        _add(parser, option)
    found, unknown = parser.parse_known_args(list(_dashed(arguments)))
    if unknown:
        raise ValueError(_unknown(unknown, options, arguments))
    values = vars(found)
    missing = [
        option.metavar if option.arg.positional else option.flag
        for option in options
        if values[option.name] is MISSING
    ]
    if missing:
        raise ValueError(f"Missing {' and '.join(missing)}.")
    for option in options:
        value = str(values[option.name])
        if option.arg.positional and value[:1] == "-" and value != "-" and "--" not in arguments:
            raise ValueError(
                f"Unknown option {value}; put a {option.metavar} that starts with a dash after --."
            )
    return values


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    given: dict[str, Any] = {"dest": option.name, "default": option.default}
    names = [f"--{option.name.replace('_', '-')}"]
    if option.arg.short is not None:
        names.insert(0, option.arg.short)
    if option.kind is bool:
        parser.add_argument(*names, action="store_true", **given)
        name = names[-1][2:]
        opposite = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
        parser.add_argument(f"--{opposite}", action="store_false", **given)
    elif option.arg.positional:
        given.pop("dest")
        parser.add_argument(
            option.name, nargs="?", type=option.convert, default=option.default,
            metavar=option.metavar,
        )  # fmt: skip
    elif option.kind is tuple:
        parser.add_argument(*names, action="append", type=option.convert, **given | {"default": []})
    else:
        parser.add_argument(*names, type=option.convert, **given)


def _dashed(arguments: Sequence[str]) -> Iterator[str]:
    """Arguments with dashes for the underscores in the names of options."""
    are_options = True
    for argument in arguments:
        are_options = are_options and argument != "--"
        name, equals, value = argument.partition("=")
        is_name = are_options and name.startswith("--") and " " not in name
        yield f"{name.replace('_', '-')}{equals}{value}" if is_name else argument


def _unknown(unknown: Sequence[str], options: Sequence[Option], arguments: Sequence[str]) -> str:
    first = next((one for one in unknown if one != "--"), "--")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if first in arguments[end:] and first not in arguments[:end]:
        return f"Unexpected argument {first!r} after --; put options before it."
    if not first.startswith("-"):
        return f"Unexpected argument {first!r}.{_hint(options)}"
    name = first.partition("=")[0]
    near = difflib.get_close_matches(name, [o.flag for o in options if not o.arg.positional], n=1)
    return f"Unknown option {name}.{f' Did you mean {near[0]}?' if near else ''}"


def _hint(options: Sequence[Option]) -> str:
    """Where a stray word may belong: to a prompt without quotes, or to --text."""
    names = {option.name for option in options}
    if "prompt" in names:
        return " Put a prompt of several words in quotes."
    return " Describe the new audio with --text." if "text" in names else ""


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    hints: dict[str, Any] = get_type_hints(kind, include_extras=True)
    given = {}
    for field in fields(kind):
        inner, _ = _kind(hints[field.name])
        if is_dataclass(inner):
            given[field.name] = _build(inner, values)  # type: ignore[arg-type]
        else:
            value = values[field.name]
            given[field.name] = tuple(value) if inner is tuple else value
    return kind(**given)


def _kind(hint: Any) -> tuple[Any, Arg]:
    """The type of a field without None, and what it is annotated with."""
    marks: tuple[Any, ...] = ()
    while get_origin(hint) is Annotated:
        marks += hint.__metadata__
        hint = get_args(hint)[0]
    arg = next((mark for mark in marks if isinstance(mark, Arg)), Arg())
    if type(None) in get_args(hint):
        (hint,) = (one for one in get_args(hint) if one is not type(None))
    return get_origin(hint) or hint, arg


def _field_docs(kind: type) -> dict[str, str]:
    """The strings below the fields of a class."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = str(after.value.value) if is_doc else ""  # type: ignore[union-attr]
            found[field.target.id] = " ".join(text.split())
    return found


def _filled(text: str, width: int) -> str:
    return "\n\n".join(textwrap.fill(" ".join(p.split()), width) for p in text.split("\n\n"))


def _rows(rows: Sequence[tuple[str, str]], width: int, indent: int = _INDENT) -> list[str]:
    """Two columns: names, and texts that wrap."""
    lines = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, max(20, width - indent)) or [""]
        first = f"  {name}"
        if len(first) > indent - 2:
            lines.append(first)
        else:
            wrapped[0] = f"{first:{indent}}{wrapped[0]}"
            lines.append(wrapped.pop(0))
        lines += [" " * indent + line for line in wrapped]
    return lines
