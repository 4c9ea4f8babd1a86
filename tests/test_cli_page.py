"""docs/cli.md is what docs/make_cli.py makes, and names every option of the command line."""

import re
import runpy
from pathlib import Path

import pytest

from lm_audio.cli import VERBS, main

DOCS = Path(__file__).parents[1] / "docs"
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def test_the_page_is_that_of_the_code() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["page"]()
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == made, "run python docs/make_cli.py"


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_names_every_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    taken = set(OPTION.findall(capsys.readouterr().out)) - {"--help"}
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    own, _, shared = page.partition("## Options of several verbs")
    sections = re.split(r"\n## lm-audio ", own)
    said = "".join(text for text in sections if text.startswith(verb))
    named = set(OPTION.findall(said))
    if "And: " in said:
        titles = re.findall(r"\[([^]]+)\]\(#", said)
        for title in titles:
            named |= set(OPTION.findall(part_of(shared, title)))
    assert taken <= named
    if verb != "recipes":  # its help names those of the verbs below it alone
        assert {name for name in named if not name.startswith("--no-")} <= taken | {"--help"}


def part_of(shared: str, title: str) -> str:
    parts = re.split(r"\n### ", shared)
    return next(part for part in parts if part.lower().startswith(title.lower()))
