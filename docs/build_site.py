"""Builds the documentation site in build/site; see `make docs`.

    .venv-docs/bin/python docs/build_site.py

Collects every document of the repository in build/docs, at the same relative paths so that links
between them hold, together with the files that they link. Fails on a broken link, and on a page
that loads something from another host.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGE, SITE = ROOT / "build" / "docs", ROOT / "build" / "site"
PAGES = (
    "*.md",
    "docs/**/*.md",
    "benchmarks/results/*.md",
    "lm_audio/pretrained/README.md",
)
BADGE = re.compile(r"!\[[^]]*\]\(https://img\.shields\.io[^)]*\)\n?")
LOADED = re.compile(r"""<(?:script|img|link|audio|iframe)\b[^>]*\b(?:src|href)="(https?:[^"]+)""")
LINK = re.compile(r"""(?:\]\(|\bsrc=")([^)#"\s]+)""")


def pages() -> list[Path]:
    """The documents of the site, relative to the root."""
    found = {path for pattern in PAGES for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT) for path in found)


def linked_files(page: Path) -> list[Path]:
    """The files of the repository that a page links or embeds, relative to the root."""
    targets = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    paths = [(ROOT / page).parent.joinpath(target).resolve() for target in targets]
    return [path.relative_to(ROOT) for path in paths if path.is_file() and ROOT in path.parents]


def collect() -> None:
    """Fills build/docs."""
    shutil.rmtree(STAGE, ignore_errors=True)
    documents = pages()
    for path in {*documents, *(file for page in documents for file in linked_files(page))}:
        target = STAGE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    front = STAGE / "README.md"
    front.write_text(BADGE.sub("", front.read_text(encoding="utf-8")), encoding="utf-8")


def foreign(html: str) -> list[str]:
    """The addresses on other hosts from which a page loads something."""
    return LOADED.findall(html)


def main() -> None:
    collect()
    tool = str(Path(sys.executable).with_name("zensical"))
    command = [tool, "build", "--clean", "--strict", "--config-file", "zensical.toml"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    for page in SITE.rglob("*.html"):
        for address in foreign(page.read_text(encoding="utf-8")):
            print(f"{page.relative_to(SITE)} loads {address}.", file=sys.stderr)
            status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
