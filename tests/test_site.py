"""The documentation site, its gallery and pictures, the notebook and the container files."""

import json
import re
import runpy
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / name))


def test_the_gallery_follows_from_its_script() -> None:
    gallery = script("make_gallery.py")
    table = f"{gallery['START']}\n{gallery['readme_table']()}\n{gallery['END']}"
    assert table in (ROOT / "README.md").read_text(encoding="utf-8"), "run docs/make_gallery.py"
    assert (ROOT / "docs/gallery.md").read_text(encoding="utf-8") == gallery["page"]()
    names = {f"{clip.name}.mp3" for clip in gallery["CLIPS"]}
    assert len(names) >= 8
    assert {path.name for path in (ROOT / "docs/audio").iterdir()} == names


def test_gallery_clips_are_small_and_as_long_as_their_commands_say() -> None:
    import soundfile

    for path in (ROOT / "docs/audio").iterdir():
        assert path.stat().st_size < 100_000
        assert soundfile.info(path).duration == pytest.approx(5.0, abs=0.1)


def test_the_speed_chart_is_that_of_the_results() -> None:
    chart = script("draw_speed.py")
    drawn = chart["picture"]()
    assert (ROOT / "docs/images/speed.svg").read_text(encoding="utf-8") == drawn, (
        "run python docs/draw_speed.py"
    )
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    measured = chart["rows"](chart["RESULTS"].read_text(encoding="utf-8"))
    fastest = next(r for r in measured if (r.items, r.position, r.name) == (1, 500, "int8"))
    assert f"{fastest.milliseconds:.0f} ms, {fastest.ratio:.1f} times as fast" in texts
    rows = chart["rows"]("| 1 | 500 | int8 | 13.7 | 12.7 | 13.65 | 2.3 |\n| items | position |")
    assert rows == [(1, 500, "int8", 12.7, 13.65)]


def test_the_readme_quotes_the_range_of_the_speed_results() -> None:
    chart = script("draw_speed.py")
    rows = chart["rows"]((ROOT / "benchmarks/results/generate.md").read_text())
    ratios = [row.ratio for row in rows if row.items == 1 and row.name != "transformers"]
    low, high = int(min(ratios)), int(max(ratios))
    quoted = f"{low} (float32) to {high} (int8) times as fast as it does in transformers"
    assert quoted in (ROOT / "README.md").read_text()


def test_the_site_has_every_document_and_what_it_links(tmp_path: Path) -> None:
    site = script("build_site.py")
    collect = site["collect"]
    collect.__globals__["STAGE"] = tmp_path
    collect()
    collected = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    documents = {p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert documents <= collected
    assert {"README.md", "docs/images/speed.svg", "docs/audio/dog.mp3", "LICENSE"} <= collected
    assert "shields.io" not in (tmp_path / "README.md").read_text()
    config = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    pages = [page for entry in config["nav"] for page in leaves(entry)]
    assert set(pages) <= collected
    unlisted = {p for p in documents if "/adr/" not in p} - set(pages)
    assert not unlisted


def leaves(entry: dict[str, Any]) -> list[str]:
    (target,) = entry.values()
    return [target] if isinstance(target, str) else [p for each in target for p in leaves(each)]


def test_a_page_that_loads_from_another_host_is_found() -> None:
    foreign = script("build_site.py")["foreign"]
    assert foreign('<script src="https://a.b/c.js">') == ["https://a.b/c.js"]
    assert foreign('<link rel="stylesheet" href="https://a.b/c.css">') == ["https://a.b/c.css"]
    assert foreign('<a href="https://a.b/">x</a> <audio src="x.mp3"></audio>') == []


def test_the_site_loads_no_fonts_from_the_network() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert config["theme"]["font"] is False


def test_the_notebook_has_no_outputs() -> None:
    notebook = json.loads((ROOT / "docs/notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(not c["outputs"] and c["execution_count"] is None for c in cells)


def test_the_image_serves_as_an_unprivileged_user_and_checks_its_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    assert "\nUSER 1000\n" in text.rpartition("\nFROM ")[2]
    assert "/health" in next(rest for name, rest in instructions if name == "HEALTHCHECK")
    entry = json.loads(dict(instructions)["ENTRYPOINT"]) + json.loads(dict(instructions)["CMD"])
    assert entry[:2] == ["lm-audio", "serve"]
    for source in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_compose_service_is_reachable_from_this_machine_only() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["lm-audio"]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    port = service["command"][service["command"].index("--port") + 1]
    assert f"EXPOSE {port}" in (ROOT / "Dockerfile").read_text()
