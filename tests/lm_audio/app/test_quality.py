"""What holds for the whole page: accessibility, stability, weight and privacy."""

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lm_audio.server.engine import Engine
from tests.lm_audio.app.visit import Visit, needs_browser, visiting

pytestmark = needs_browser

AXE = "axe-core@4.14.1"
AXE_SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
VIEWS = ("Make", "Timeline", "Library")
MOST_BYTES = 400_000
MOST_SHIFT = 0.05
DIFFUSION = {
    "Make": {"seamless", "choose-melody", "story-marker", "small", "steps"},
    "Timeline": {"story-marker", "strength", "vary"},
    "Library": set[str](),
}
"""What only the page of a diffusion model has: elements by id, or by class."""
FOCUS = """const focused = document.activeElement;
    const style = getComputedStyle(focused);
    return [focused === document.body ? '' : focused.id || focused.className || focused.tagName,
            style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]"""


@pytest.fixture(scope="session")
def axe(request: pytest.FixtureRequest) -> str:
    """The source of axe-core (MPL-2.0), from npm; kept in pytest's cache."""
    folder = Path(request.config.cache.mkdir("axe-core"))
    file = folder / f"{AXE.replace('@', '-')}.tgz"
    if not file.is_file():
        try:
            command = ["npm", "pack", AXE, "--silent", "--pack-destination", str(folder)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        except (OSError, subprocess.SubprocessError):
            pytest.skip("axe-core cannot be downloaded with npm")
    data = file.read_bytes()
    assert hashlib.sha512(data).hexdigest() == AXE_SHA512
    with tarfile.open(fileobj=io.BytesIO(data)) as package:
        source = package.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.fixture(scope="module", params=["tokens", "diffusion"])
def furnished(
    request: pytest.FixtureRequest, tiny: tuple[str, Engine], denoising: str
) -> Iterator[Visit]:
    """A page with takes, an edited clip on the timeline, and a library; and all controls."""
    has_all = request.param == "diffusion"
    with visiting(denoising if has_all else tiny[0]) as page:
        if has_all:
            page.run("document.getElementById('melody-field').hidden = false")
            page.click("#seamless")
            page.fill("duration", "0.5")
            for place in ("story", "edit-story"):
                page.run(f"document.querySelector('#{place} .small').click()")
                page.run(f"document.querySelector('#{place} li input:not([type])').value = 'wind'")
        page.generate(prompt="rain", duration=0.5, takes=2)
        page.finished(2)
        page.click("#settings summary")
        page.click(".card button", "Edit")
        page.until(lambda: page.seen("#track-title", "rain"))
        page.fill("from", "0.1")
        page.fill("to", "0.3")
        page.click("#fill", "Fill")
        page.until(lambda: page.seen("#versions button", "Filled"))
        yield page


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(furnished: Visit, axe: str, theme: str, phone: bool) -> None:
    page = furnished
    page.size(phone=phone)
    if page.run("return document.documentElement.dataset.theme") != theme:
        page.click("#theme")
    page.run(axe)
    for view in VIEWS:
        page.view(view)
        page.until(lambda: not page.seen(".playing"))
        found = page.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations'],"
            "runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
            ".then(result => done(result.violations.map(v =>"
            "[v.id, v.nodes.map(n => [n.html.slice(0, 120), n.failureSummary])])))"
        )
        assert found == [], (theme, phone, view)
        page.run("axe.reset()")


def test_dialogs_and_menus_have_no_violation(furnished: Visit, axe: str) -> None:
    page = furnished
    page.size(phone=False)
    page.view("Make")
    page.run(axe)

    def violations() -> Any:
        return page.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(result =>"
            "done(result.violations.map(v => [v.id, v.nodes.map(n => n.html.slice(0, 120))])))"
        )

    page.click(".card .menu summary")
    assert violations() == []
    page.click(".menu-item", "Copy as code")
    page.until(lambda: page.seen("#code[open]"))
    assert violations() == []
    page.click("#code button", "Close")
    page.click("#open-shortcuts")
    page.until(lambda: page.seen("#shortcuts[open]"))
    assert violations() == []
    page.click("#shortcuts button", "Close")


def test_it_fits_a_phone(furnished: Visit) -> None:
    page = furnished
    page.size(phone=True)
    for view in VIEWS:
        page.view(view)
        assert page.run("return document.documentElement.scrollWidth") == 390, view


def test_the_keyboard_reaches_everything_with_a_visible_focus(furnished: Visit) -> None:
    page = furnished
    page.size(phone=False)
    for view, expected in {
        "Make": {"prompt", "duration", "takes", "seed", "seed-lock", "generate", "negative"},
        "Timeline": {
            "choose-file", "record", "play", "loop", "waveform", "tail-grip", "from", "to",
            "extend", "snap", "edit-prompt", "fill", "continue", "undo",
        },
        "Library": {"search", "starred", "clear"},
    }.items():  # fmt: skip
        if page.run("return !document.getElementById('vary-row').hidden"):
            expected = expected - {"negative"} | DIFFUSION[view]
        page.view(view)
        page.run("document.activeElement.blur()")
        reached = set()
        while True:
            page.keys("\ue004")
            name, is_visible = page.run(FOCUS)
            if not name:  # past the last element
                break
            assert is_visible, (view, name)
            reached.add(name)
        assert expected <= reached, expected - reached


def test_nothing_moves_by_itself(page: Visit) -> None:
    page.generate(prompt="rain", duration=1, takes=2)
    page.finished(2)
    page.click(".card button", "Edit")
    page.until(lambda: page.seen("#track-title", "rain"))
    page.click("#continue", "Continue")
    page.until(lambda: page.seen("#versions button", "Continued"))
    page.view("Library")
    page.until(lambda: len(page.seen("#clip-list .card")) == 3)
    shifts = page.run("return shifts")
    print(f"\nlayout shift: {sum(value for value, _ in shifts):.4f}")
    assert sum(value for value, _ in shifts) <= MOST_SHIFT, sorted(shifts, reverse=True)[:5]


def test_a_person_who_wants_little_motion_gets_none(page: Visit) -> None:
    features = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    durations = page.run(
        "return [...document.querySelectorAll('*')].flatMap(e => [getComputedStyle(e)"
        ".transitionDuration, getComputedStyle(e).animationDuration])"
    )
    assert {each for each in durations if each not in ("0s", "auto")} == set()


def test_the_system_and_the_button_choose_the_theme(page: Visit) -> None:
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    theme = "return document.documentElement.dataset.theme"
    page.until(lambda: page.run(theme) == "dark")
    page.click("#theme")
    assert page.run(theme) == "light"
    page.arrive()
    assert page.run(theme) == "light"


def test_it_is_light_and_loads_nothing_from_elsewhere(
    page: Visit, tiny: tuple[str, Engine]
) -> None:
    page.generate(prompt="rain", duration=0.5, takes=1)
    page.finished(1)
    page.click(".card button", "Edit")
    page.until(lambda: page.seen("#track-title", "rain"))
    loaded = page.run(
        "return performance.getEntries().filter(e => e.transferSize !== undefined)"
        ".map(e => [e.name, e.transferSize])"
    )
    assert {url for url, _ in loaded if not url.startswith(tiny[0])} == set()
    weight = sum(size for url, size in loaded if "/v1/audio/" not in url)
    print(f"\npage weight: {weight} bytes in {len(loaded)} requests")
    assert 100_000 < weight <= MOST_BYTES
    paints = page.run(
        "return performance.getEntriesByType('paint').map(e => [e.name, Math.round(e.startTime)])"
    )
    print(f"paints in ms: {dict(paints)}")


def test_the_heap_is_stable_over_fifty_clips(tiny: tuple[str, Engine]) -> None:
    with visiting(tiny[0], tap=False) as page:

        def heap() -> float:
            page.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            metrics = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return {each["name"]: each["value"] for each in metrics}["JSHeapUsedSize"] / 1e6

        page.driver.execute_cdp_cmd("Performance.enable", {})

        def make(num_shown: int) -> float:
            page.generate(prompt="rain", duration=0.5, takes=9)
            page.until(lambda: page.seen("#generate", "Generate"))
            page.finished(min(12, num_shown))
            page.view("Library")
            page.until(lambda: len(page.seen("#clip-list .card")) == min(24, num_shown))
            page.view("Make")
            return heap()

        used = [make(9 * batch) for batch in range(1, 8)]
        print(f"\nheap after each nine clips, in MB: {[round(x, 1) for x in used]}")
        # The library keeps the facts and thumbnails of each clip: about 8 kB.
        assert used[-1] - used[1] < 45 * 0.05 + 1.0
