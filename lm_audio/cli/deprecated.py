"""Old option names, which keep working for one version with a warning on stderr.

To rename an option, add its old and new name to `RENAMED`. The old name is replaced before the
arguments are parsed, so help and documentation show the new one only.
"""

import sys
from collections.abc import Mapping, Sequence

SERVE = {
    "--max-at-once": "--max-batch-size",
    "--max-waiting": "--max-queue",
    "--keys": "--api-keys-file",
    "--page": "--web-ui",
    "--no-page": "--no-web-ui",
    "--name": "--served-model-name",
}
RENAMED: Mapping[str, Mapping[str, str]] = {
    "generate": {"--num-samples": "--num-clips"},
    "serve": SERVE,
}
"""New option names by verb and old name."""


def with_new_names(
    arguments: Sequence[str], renamed: Mapping[str, str], *, program: str = "lm-audio"
) -> list[str]:
    """The arguments with old option names replaced; prints a warning for each of those."""
    replaced: list[str] = []
    warned: set[str] = set()
    for number, argument in enumerate(arguments):
        if argument == "--":  # only values follow
            return [*replaced, *arguments[number:]]
        name, equals, value = argument.partition("=")
        old = name.replace("_", "-")  # the parser accepts both
        new = renamed.get(old)
        replaced.append(argument if new is None else f"{new}{equals}{value}")
        if new is not None and old not in warned:
            warned.add(old)
            print(f"{program}: warning: {old} is deprecated; use {new}.", file=sys.stderr)
    return replaced
