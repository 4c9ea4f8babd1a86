"""Draws docs/images/architecture.svg: the layers of pyproject.toml and the imports between them.

    python docs/draw_architecture.py

Each row is a layer, each box a package or module. An arrow is an import; those that follow from
others are left out, and so are small modules.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from html import escape
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
GROUND = "audio_tokenizers"
SMALL = {
    "__main__", "catalogue", "origin", "precision", "pretrained", "system", "threads", "version",
    "watermark",
}  # fmt: skip
WIDTH, ROW, BOX_WIDTH, BOX_HEIGHT, LANE_WIDTH, MARGIN = 700, 68, 136, 32, 20, 16
Graph = dict[str, set[str]]
Lane = tuple[str, str, int]
"""Room for an arrow in a row that it passes: from, to, row."""


def layers() -> list[list[str]]:
    """The layers of lm_audio, from the top, then the tokenizers that they stand on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (rows,) = (c["layers"] for c in contracts if c.get("containers") == ["lm_audio"])
    names = [[n for n in re.split(r"\s*[|:]\s*", row) if n not in SMALL] for row in rows]
    return [*filter(None, names), [GROUND]]


def imports(names: set[str]) -> Graph:
    """What each package or module of lm_audio imports of the others, and of the tokenizers."""
    graph: Graph = {name: set() for name in names}
    for path in sorted((ROOT / "lm_audio").rglob("*.py")):
        importer = path.relative_to(ROOT / "lm_audio").with_suffix("").parts[0]
        if importer in names:
            graph[importer] |= {*_imported(path)} & names - {importer}
    return graph


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "lm_audio":
            modules = [f"lm_audio.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            first, _, rest = module.partition(".")
            yield first if first == GROUND else rest.split(".")[0] if first == "lm_audio" else ""


def reduced(graph: Graph) -> Graph:
    """The graph without the arrows that a longer way replaces."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph.get(waiting.pop(), set()) - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    return {
        name: {low for low in below if not any(low in reachable(o) for o in below - {low})}
        for name, below in graph.items()
    }


def place(rows: list[list[str]], graph: Graph) -> dict[str | Lane, tuple[float, int]]:
    """The centre of each box and lane: below what leads to it, as far as there is room."""
    number_of = {name: number for number, row in enumerate(rows) for name in row}
    places: dict[str | Lane, tuple[float, int]] = {}
    for number, row in enumerate(rows):
        wanted: dict[str | Lane, list[float]] = {name: [] for name in row}
        for high in number_of:
            for low in sorted(graph[high]):
                if number_of[high] < number <= number_of[low]:
                    before = high if number == number_of[high] + 1 else (high, low, number - 1)
                    item = low if number == number_of[low] else (high, low, number)
                    wanted.setdefault(item, []).append(places[before][0])
        means = {item: sum(x) / len(x) if x else WIDTH / 2 for item, x in wanted.items()}
        order = sorted(wanted, key=lambda item: (means[item], str(item)))
        sizes = [BOX_WIDTH if isinstance(item, str) else LANE_WIDTH for item in order]
        gap = (WIDTH - 2 * MARGIN - sum(sizes)) / len(order)
        left = MARGIN + gap / 2
        for item, size in zip(order, sizes, strict=True):
            places[item] = left + size / 2, MARGIN + number * ROW + BOX_HEIGHT // 2
            left += size + gap
    return places


def picture() -> str:
    """The SVG as text."""
    rows = layers()
    graph = reduced(imports({name for row in rows for name in row}))
    places = place(rows, graph)
    height = 2 * MARGIN + (len(rows) - 1) * ROW + BOX_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13">',
        "<title>Layers of lm-audio; an arrow is an import</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#57606a"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        *_arrows(graph, places),
    ]
    for name, (x, y) in places.items():
        if not isinstance(name, str):
            continue
        width = WIDTH - 2 * MARGIN if name == GROUND else BOX_WIDTH
        is_package = name == GROUND or (ROOT / "lm_audio" / name).is_dir()
        fill = "#ddf4ff" if is_package else "#f6f8fa"
        lines += [
            f'<rect x="{x - width / 2:.0f}" y="{y - BOX_HEIGHT / 2:g}" width="{width}" '
            f'height="{BOX_HEIGHT}" rx="6" fill="{fill}" stroke="#57606a"/>',
            f'<text x="{x:.0f}" y="{y + 4:g}" text-anchor="middle" fill="#1f2328">'
            f"{escape(name + ('/' if is_package else '.py'))}</text>",
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrows(graph: Graph, places: Mapping[str | Lane, tuple[float, int]]) -> Iterator[str]:
    half = BOX_HEIGHT / 2
    for high in (name for name in places if isinstance(name, str)):
        for low in sorted(graph[high]):
            lanes = [place for key, place in places.items() if key[:2] == (high, low)]
            stops = [places[high], *lanes, places[low]]
            if low == GROUND:
                stops[-1] = stops[-2][0], stops[-1][1]
            way = f"M{stops[0][0]:.0f} {stops[0][1] + half:g}"
            for (x1, y1), (x2, y2) in pairwise(stops):
                top, bottom = y1 + half, y2 - half
                middle = (top + bottom) / 2
                way += f"V{top:g}C{x1:.0f} {middle:g} {x2:.0f} {middle:g} {x2:.0f} {bottom:g}"
            yield f'<path d="{way}" fill="none" stroke="#57606a" marker-end="url(#head)"/>'


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
