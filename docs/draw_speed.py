"""Draws docs/images/speed.svg from benchmarks/results/generate.md.

python docs/draw_speed.py
"""

import re
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "generate.md"
PICTURE = ROOT / "docs" / "images" / "speed.svg"
PEER = "transformers"
POSITION = 500
"""Frames before the step that is shown: ten seconds of MusicGen."""
GROUPS = {1: "One clip", 8: "Eight clips in one batch"}
WIDTH, LEFT, RIGHT, BAR, GAP = 720, 160, 170, 22, 6
STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 16px; } .group { font-weight: 600; }
.note { font-size: 12px; fill: #59636e; } .peer { fill: #9aa4af; } .ours { fill: #1a7f64; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; } .note { fill: #9198a1; } .peer { fill: #656c76; } .ours { fill: #3fb68b; }
}
"""


class Row(NamedTuple):
    """One line of the table: the 20th percentile of a step, and its ratio to the peer's."""

    items: int
    position: int
    name: str
    milliseconds: float
    ratio: float


def rows(text: str) -> list[Row]:
    """The lines of the first table of the results."""
    found = re.findall(
        r"^\| (\d+) \| (\d+) \| (\w+) \| [\d.]+ \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE
    )
    return [Row(int(n), int(at), name, float(ms), float(x)) for n, at, name, ms, x in found]


def picture() -> str:
    """The chart as SVG."""
    text = RESULTS.read_text(encoding="utf-8")
    table = rows(text)
    parts = [
        '<text class="title" x="16" y="28">Milliseconds per decode step (lower is better)</text>',
        '<text class="note" x="16" y="48">Shape of musicgen-small, random weights, guidance 3, '
        f"position {POSITION}; {escape(_machine(text))}</text>",
    ]
    y = 78
    for items, title in GROUPS.items():
        group = [row for row in table if row.items == items and row.position == POSITION]
        longest = max(row.milliseconds for row in group)
        parts.append(f'<text class="group" x="16" y="{y}">{title}</text>')
        y += 12
        for row in group:
            parts += _bar(row, y, longest)
            y += BAR + GAP
        y += 28
    height = y - 16
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="Decode steps of lm-audio and transformers">\n<style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _bar(row: Row, y: int, longest: float) -> list[str]:
    width = round((WIDTH - LEFT - RIGHT) * row.milliseconds / longest, 1)
    is_peer = row.name == PEER
    label = f"{row.milliseconds:.0f} ms" + ("" if is_peer else f", {row.ratio:.1f} times as fast")
    name = row.name if is_peer else f"lm-audio, {row.name}"
    middle = y + BAR - 6
    return [
        f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{name}</text>',
        f'<rect class="{"peer" if is_peer else "ours"}" x="{LEFT}" y="{y}" width="{width}" '
        f'height="{BAR}" rx="3"/>',
        f'<text x="{LEFT + width + 8}" y="{middle}">{label}</text>',
    ]


def _machine(text: str) -> str:
    """`transformers 5.23.0, 2 threads, AMD EPYC`, from the line with the commit."""
    line = next(line for line in text.splitlines() if line.startswith("- commit"))
    versions = dict(part.rpartition(" ")[::2] for part in line.split(", "))
    threads, processor = line.split(", ")[-2:]
    return f"transformers {versions['transformers']}, {threads}, {processor}"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
