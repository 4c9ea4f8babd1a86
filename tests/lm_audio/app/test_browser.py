"""The page in a real browser: what people type, press and upload becomes sound and pictures.

With LM_AUDIO_SCREENSHOTS=docs/images in the environment it writes the pictures of the README.
"""

import contextlib
import io
import os
import re
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
COLOURS = """let behind = arguments[0];
    const colour = element => getComputedStyle(element).backgroundColor;
    while (colour(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    return [getComputedStyle(arguments[0]).color, colour(behind)]"""
OVERFLOW = "return arguments[0].scrollWidth - arguments[0].clientWidth"

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
        """What is found, as soon as it is; what the page replaces meanwhile is looked for again."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                if found := look():
                    return found
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(0.1)

    def texts(self, selector: str, text: str = "") -> list[str]:
        """The texts of what is visible, and has this text."""
        return list(
            self.driver.execute_script(SEEN + ".map(each => each.innerText)", selector, text)
        )

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
        def filled() -> bool:
            (field,) = self.seen(f"input[type=number][aria-label*='{label}']") or [None]
            if field is None:
                return False
            field.clear()
            field.send_keys(str(value), "\ue004")  # and Tab, to leave it
            return float(field.get_attribute("value") or "nan") == value

        self.until(filled)

    def field(self, label: str) -> Any:
        """The text field under a label."""
        return self.until(
            lambda: [
                each.find_element("css selector", "textarea, input")
                for each in self.seen("label", label)[:1]
            ]
        )[0]

    def write(self, label: str, text: str) -> None:
        """Types it, and Tab, into the field under a label."""

        def written() -> bool:
            self.field(label).send_keys(text, "\ue004")
            return True

        self.until(written)

    def titles(self) -> list[str]:
        """The titles of finished clips."""
        return self.texts("strong", "(seed ")

    def enabled(self, button: str) -> bool:
        return self.until(lambda: [each.is_enabled() for each in self.seen("button", button)])[-1]

    def width(self) -> float:
        width = "return document.querySelector('main').getBoundingClientRect().width"
        return float(self.driver.execute_script(width))

    def contrast(self, element: Any) -> float:
        """WCAG's ratio of the luminance of a text and of what is behind it."""
        colours = self.driver.execute_script(COLOURS, element)
        light, dark = sorted(map(luminance, colours), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    def sound(self, verb: str, title: str) -> Tensor:
        """The samples [C, N] of the clip that came, as its download has it."""
        self.until(lambda: self.seen("strong", title))
        link = f"a[download][href*='/{verb}-']"
        (url,) = self.until(lambda: [each.get_attribute("href") for each in self.seen(link)])
        answer = httpx.get(url)
        return read_audio(io.BytesIO(answer.content)).samples

    def picture_width(self) -> int:
        width = "return document.querySelector('img[src*=picture]')?.naturalWidth"
        return int(self.until(lambda: self.driver.execute_script(width)))

    def photograph(self, name: str) -> None:
        if SCREENSHOTS:
            self.driver.execute_script("window.scrollTo(0, 0)")
            time.sleep(1.0)
            self.driver.save_screenshot(str(Path(SCREENSHOTS) / f"{name}.png"))


def luminance(colour: str) -> float:
    """WCAG's relative luminance of rgb(...)."""
    shares = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def as_16_bits(samples: Tensor) -> Tensor:
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def test_a_prompt_becomes_sound_that_is_heard_and_seen(page: Visit, model: AudioPipeline) -> None:
    page.unfold("Settings")
    page.write("Seed", "7")
    page.fill("Seconds of new sound", 2)
    text = page.field("Prompt")
    text.send_keys("waves on a beach\n")  # Enter is enough
    heard = "return [...document.querySelectorAll('.live audio')].some(a => a.currentTime > 0)"
    page.until(lambda: page.driver.execute_script(heard))
    clip = model.generate("waves on a beach", duration=2.0, seed=7)
    assert torch.equal(
        page.sound("generate", "waves on a beach (seed 7)"), as_16_bits(clip.samples)
    )
    assert page.picture_width() > 500
    page.press("Settings")
    page.photograph("page-create")
    page.unfold("As a command and as Python")
    command = "lm-audio generate 'waves on a beach' --duration 2 --seed 7 -o clip.wav"
    page.until(lambda: page.seen(".cm-content", command))
    page.open("History")
    page.press("More like this")
    page.until(lambda: page.seen("strong", "waves on a beach (seed 8)"))
    assert page.seen("strong", "waves on a beach (seed 7)")
    page.photograph("page-history")


def test_an_empty_seed_is_a_new_one_each_time_after_the_settings_were_open(page: Visit) -> None:
    page.unfold("Settings")
    page.fill("Seconds of new sound", 0.5)
    seeds = []
    for _ in range(2):
        page.press("Create")
        (title,) = page.until(lambda: [e for e in page.titles() if e not in seeds])
        seeds.append(title)
    assert "anything (seed 0)" not in seeds
    page.write("Seed", "-1")
    page.press("Create")
    page.until(lambda: page.seen("p", "Got the seed '-1'; use a whole number from 0"))


def test_an_unknown_prompt_gets_a_notice_and_examples_fill_the_field(page: Visit) -> None:
    page.fill("Seconds of new sound", 0.5)
    page.field("Prompt").send_keys("jazz\n")
    page.until(lambda: page.seen("p", "The model was not trained on prompts like 'jazz'"))
    page.press("a dog barking")
    page.until(lambda: page.field("Prompt").get_attribute("value") == "a dog barking")
    page.press("Create")
    page.until(lambda: page.seen("strong", "a dog barking (seed"))
    assert not page.seen("p", "The model was not trained on")


def test_stop_is_active_only_while_a_clip_is_made_and_nothing_moves(page: Visit) -> None:
    widths = [page.width()]
    assert not page.enabled("Stop")
    page.fill("Seconds of new sound", 60)
    page.press("Create")
    page.until(lambda: page.enabled("Stop"))
    widths.append(page.width())
    page.press("Stop")
    page.until(lambda: page.seen("p", "Stopped."))
    page.until(lambda: not page.enabled("Stop"))
    page.fill("Seconds of new sound", 0.5)
    page.press("Create")
    page.until(page.titles)
    page.until(lambda: not page.enabled("Stop"))
    assert page.picture_width() > 500
    assert widths == [page.width()] * 2
    page.unfold("As a command and as Python")
    (line,) = page.until(lambda: page.seen(".cm-content", "lm-audio generate"))
    assert page.driver.execute_script(OVERFLOW, line) <= 0  # wrapped


def test_text_has_contrast(page: Visit) -> None:
    for theme in ("light", "dark"):
        page.driver.get(f"{page.address}/?__theme={theme}")
        page.until(lambda: page.seen("textarea"))
        texts = page.seen("button.primary", "Create") + page.seen("button[role=tab]", "Create")[:1]
        assert len(texts) == 2
        for text in texts:
            assert page.contrast(text) >= 4.5, (theme, text.text)


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
    assert not page.seen("[aria-label=Share], [title=Share]")  # for Hugging Face Spaces alone
    page.photograph("page-continue")
    page.open("Inpaint")
    page.until(lambda: page.seen("button.primary", "Fill"))
    upload(page, tmp_path / "noise.wav")
    page.until(lambda: page.seen("input[type=number][max='1']"))  # sliders fit the sound
    page.press("Fill")
    filled = page.sound("inpaint", "noise.wav, inpainted")
    changed = (filled != sound)[0].nonzero()
    assert filled.shape == sound.shape
    assert 0.3 <= int(changed.min()) / RATE < int(changed.max()) / RATE <= 0.7


def test_a_broken_file_gets_a_readable_message(
    page: Visit, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    page.open("Continue")
    page.press("Continue")
    page.until(lambda: page.seen(".toast-body", "upload a file or record one"))
    upload(page, tmp_path / "broken.wav")
    page.press("Continue")
    (toast, *_) = page.until(lambda: page.texts(".toast-body", "broken.wav"))
    assert "/" not in toast  # no path of the machine
    page.until(lambda: page.seen("p", "Error: "))  # which stays when the toast is gone
    shown = capfd.readouterr()
    assert "Traceback" not in toast + shown.out + shown.err


def test_it_fits_a_phone_and_asks_nobody_else(page: Visit, address: str) -> None:
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    page.arrive()
    for tab in ("Create", "Continue", "Inpaint", "History"):
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
