"""The page in a real browser: what people type, press and upload becomes sound and pictures.

With LM_AUDIO_SCREENSHOTS=docs/images in the environment it writes the pictures of the README.
"""

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import torch
from fastapi import FastAPI
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.pipeline import AudioPipeline
from tests.lm_audio.answering import answering

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
SCREENSHOTS = os.environ.get("LM_AUDIO_SCREENSHOTS")
WAIT = 120.0
WIDE = (1000, 900)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
RATE = 24_000
Found = TypeVar("Found")
SEEN = """return [...document.querySelectorAll(arguments[0])].filter(
    each => each.offsetParent !== null && (each.innerText ?? '').includes(arguments[1]))"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="needs chromium and chromedriver (chromium-driver)"
    ),
]


@pytest.fixture(scope="module")
def model() -> AudioPipeline:
    return lm_audio.load(device="cpu")


@pytest.fixture(scope="module")
def address(model: AudioPipeline) -> Iterator[str]:
    from lm_audio.app.page import add_page

    with answering(add_page(FastAPI(), model, name="default")) as found:
        yield found


@pytest.fixture
def page(address: str) -> Iterator["Visit"]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Visit(driver, address)
    finally:
        driver.quit()


class Visit:
    """A browser at the page."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address
        driver.set_window_size(*WIDE)
        self.arrive()

    def arrive(self) -> None:
        """Loads the page, and waits until nothing of it is still to come."""
        self.driver.get(self.address)
        self.until(lambda: self.seen("textarea"))
        self.until(lambda: not self.seen("[data-testid=status-tracker].translucent"))

    def until(self, look: Callable[[], Found]) -> Found:
        """What is found, as soon as it is."""
        end = time.monotonic() + WAIT
        while not (found := look()):
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(0.1)
        return found

    def seen(self, selector: str, text: str = "") -> list[Any]:
        """What is visible, and has this text."""
        return list(self.driver.execute_script(SEEN, selector, text))

    def press(self, text: str) -> None:
        self.until(lambda: self.clicked(self.seen("button", text)[-1:]))  # tabs come first

    def open(self, tab: str) -> None:
        self.until(lambda: self.clicked(self.seen("button[role=tab]", tab)[:1]))
        self.until(lambda: self.seen("button[role=tab][aria-selected=true]", tab))

    def unfold(self, title: str) -> None:
        self.press(title)
        self.until(lambda: self.seen("button.label-wrap.open", title))

    def clicked(self, buttons: list[Any]) -> bool:
        """Whether there was a button to click, and nothing in front of it."""
        from selenium.common.exceptions import WebDriverException

        for button in buttons:
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            time.sleep(0.3)
            try:
                button.click()
            except WebDriverException:
                return False
        return bool(buttons)

    def fill(self, label: str, value: float) -> None:
        (field,) = self.until(lambda: self.seen(f"input[type=number][aria-label*='{label}']"))
        field.clear()
        field.send_keys(str(value), "\ue004")  # and Tab, to leave it
        self.until(lambda: float(field.get_attribute("value")) == value)

    def sound(self, verb: str, title: str) -> Tensor:
        """The samples [C, N] of the clip that came, as its download has it."""
        self.until(lambda: self.seen("strong", title))
        (link,) = self.until(lambda: self.seen(f"a[download][href*='/{verb}-']"))
        answer = httpx.get(link.get_attribute("href"))
        return read_audio(io.BytesIO(answer.content)).samples

    def picture_width(self) -> int:
        width = "return document.querySelector('img[src*=picture]')?.naturalWidth"
        return int(self.until(lambda: self.driver.execute_script(width)))

    def photograph(self, name: str) -> None:
        if SCREENSHOTS:
            self.driver.execute_script("window.scrollTo(0, 0)")
            time.sleep(1.0)
            self.driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))


def as_16_bits(samples: Tensor) -> Tensor:
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def test_a_prompt_becomes_sound_that_is_heard_and_seen(page: Visit, model: AudioPipeline) -> None:
    page.unfold("More")
    page.fill("Seed", 7)
    page.fill("Seconds of new sound", 2)
    text = page.seen("textarea")[0]
    text.send_keys("waves on a beach\n")  # Enter is enough
    heard = "return [...document.querySelectorAll('.live audio')].some(a => a.currentTime > 0)"
    page.until(lambda: page.driver.execute_script(heard))
    clip = model.generate("waves on a beach", duration=2.0, seed=7)
    assert torch.equal(
        page.sound("generate", "waves on a beach (seed 7)"), as_16_bits(clip.samples)
    )
    assert page.picture_width() > 500
    page.press("More")
    page.photograph("page-create")
    page.unfold("As a command and as Python")
    command = "lm-audio generate 'waves on a beach' --duration 2 --seed 7 -o clip.wav"
    page.until(lambda: page.seen(".cm-content", command))
    page.open("Listen")
    page.press("More like this")
    page.until(lambda: page.seen("strong", "waves on a beach (seed 8)"))
    assert page.seen("strong", "waves on a beach (seed 7)")
    page.photograph("page-listen")


def test_an_upload_is_continued_and_a_span_of_it_made_anew(page: Visit, tmp_path: Path) -> None:
    # Quiet, so that what is made of it is never turned down, which would turn it down, too.
    sound = as_16_bits(0.01 * torch.randn(1, RATE).clamp(-3, 3))
    write_audio(tmp_path / "noise.wav", sound, RATE)
    page.open("Continue")
    page.until(lambda: page.seen("button.primary", "Continue"))
    upload(page, tmp_path / "noise.wav")
    page.fill("Seconds of new sound", 0.5)
    page.press("Continue")
    continued = page.sound("continue", "noise.wav, continued")
    assert continued.shape == (1, RATE + RATE // 2)
    assert torch.equal(continued[:, :RATE], sound)
    page.photograph("page-continue")
    page.open("Inpaint")
    page.until(lambda: page.seen("button.primary", "Fill the span"))
    upload(page, tmp_path / "noise.wav")
    page.until(lambda: page.seen("input[type=number][max='1']"))  # sliders fit the sound
    page.press("Fill the span")
    mended = page.sound("inpaint", "noise.wav, mended")
    changed = (mended != sound)[0].nonzero()
    assert mended.shape == sound.shape
    assert 0.3 <= int(changed.min()) / RATE < int(changed.max()) / RATE <= 0.7


def test_a_broken_file_gets_a_readable_message(page: Visit, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    page.open("Continue")
    page.press("Continue")
    page.until(lambda: page.seen(".toast-body", "upload a file or record one"))
    upload(page, tmp_path / "broken.wav")
    page.press("Continue")
    (toast, *_) = page.until(lambda: page.seen(".toast-body", "broken.wav"))
    assert "/" not in toast.text  # no path of the machine
    assert "Traceback" not in toast.text


def test_it_fits_a_phone_and_asks_nobody_else(page: Visit, address: str) -> None:
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.arrive()
    for tab in ("Create", "Continue", "Inpaint", "Listen"):
        page.open(tab)
        time.sleep(0.5)
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= page.driver.execute_script("return window.innerWidth")
        for field in page.seen("input, textarea"):
            assert field.rect["x"] + field.rect["width"] <= width
    page.open("Create")
    page.photograph("page-phone")
    asked = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    others = [url for url in page.driver.execute_script(asked) if not url.startswith(address)]
    assert [url for url in others if url.startswith("http")] == []


def upload(page: Visit, path: Path) -> None:
    """Gives a file to the field for one on the open tab, and waits until it is there."""
    panel = page.seen("[role=tabpanel]")[0]
    (field,) = page.until(lambda: panel.find_elements("css selector", "input[type=file]"))
    field.send_keys(str(path))
    page.until(lambda: page.seen("[aria-label='Clear'], button[title='Clear']", ""))
