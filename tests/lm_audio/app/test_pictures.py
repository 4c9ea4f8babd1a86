"""The pictures of the documentation: LM_AUDIO_SCREENSHOTS=docs/images writes them."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.lm_audio.app.visit import WIDE, Visit, needs_browser, visiting

FOLDER = os.environ.get("LM_AUDIO_SCREENSHOTS", "")
HEIGHT = {"page-make": 930, "page-timeline": 900, "page-library": 780}  # CSS pixels

pytestmark = [
    *needs_browser,
    pytest.mark.skipif(not FOLDER, reason="writes pictures; set LM_AUDIO_SCREENSHOTS"),
]


def photograph(page: Visit, name: str) -> None:
    size = {"width": WIDE[0], "height": HEIGHT[name], "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    page.until(lambda: page.run("return innerHeight") == HEIGHT[name])
    page.unfocus()
    page.run("scrollTo(0, 0)")
    drawn = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    page.driver.execute_async_script(drawn)
    shown = Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")
    shown.quantize(256, dither=Image.Dither.NONE).save(Path(FOLDER) / f"{name}.png", optimize=True)


def test_pictures_are_taken(bundled: Any) -> None:
    with visiting(bundled[0]) as page:
        page.generate(prompt="a crackling fire", takes=2, seed=2, duration=5)
        page.finished(2)
        page.generate(prompt="a dog barking", takes=2, seed=5, duration=5)
        page.finished(4)
        page.until(lambda: not page.seen(".card.playing"))
        page.click(".card [aria-label=Star]")
        page.click("#story button", "Add a later prompt")
        page.keys("waves on a beach")
        page.unfocus()
        page.keys("2")
        half = (
            "return parseFloat(document.querySelector('.card.playing .time').textContent.slice(2))"
        )
        page.until(lambda: page.seen(".card.playing"))
        page.until(lambda: (page.run(half) or 0) > 1.6)
        photograph(page, "page-make")
        page.click(".card button", "Edit")
        page.until(lambda: page.seen("#track-title", "a dog barking"))
        page.fill("from", "1.2")
        page.fill("to", "2.4")
        page.click("#fill", "Fill")
        page.until(lambda: page.seen("#versions button", "Filled"))
        page.until(lambda: page.seen("#time", "0:01.8"))
        page.click("#play")
        photograph(page, "page-timeline")
        page.view("Library")
        page.until(lambda: len(page.seen("#clip-list .card")) == 5)
        page.click("#theme")
        photograph(page, "page-library")
