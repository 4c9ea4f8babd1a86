"""docs/cli.md is the output of docs/make_cli.py and names every option of the command line."""

import re
import runpy
from pathlib import Path

import pytest

from lm_audio.cli.arguments import VerbGroup, groups
from lm_audio.cli.verbs import VERBS

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "cli.md").read_text(encoding="utf-8")


def test_the_page_is_that_of_the_code() -> None:
    made = runpy.run_path(str(DOCS / "make_cli.py"))["page"]()
    assert made == PAGE, "run python docs/make_cli.py"


@pytest.mark.parametrize("name", VERBS)
def test_the_page_names_every_option(name: str) -> None:
    verb = VERBS[name]
    own, _, shared = PAGE.partition("\n## Shared options\n")
    below = verb.verbs if isinstance(verb, VerbGroup) else {"": verb}
    for title, kind in below.items():
        heading = f"## lm-audio {name} {title}".rstrip()
        text = own.partition(f"{heading}\n")[2].partition("\n## ")[0]
        for group, options in groups(kind):
            is_own = group in ("Arguments", "Options")
            place = text if is_own else shared.partition(f"\n### {group}\n")[2]
            assert all(f"| `{o.usage.replace('|', chr(92) + '|')}` |" in place for o in options)
            assert is_own or f"[{group}](#" in text


def test_links_on_the_page_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert links
    assert set(links) <= anchors
