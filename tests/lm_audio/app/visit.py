"""A visit of the page with Chromium: waits for conditions, never for a time."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_audio.server.engine import Engine

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
WAIT = 180.0  # seconds; a busy machine is slow
POLL = 0.1
WIDE = (1280, 900)
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--mute-audio",
    "--disable-dev-shm-usage",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
WATCH = """
    window.problems = [];
    window.shifts = [];
    addEventListener('error', event => problems.push(event.message));
    addEventListener('unhandledrejection', event => problems.push(String(event.reason)));
    addEventListener('securitypolicyviolation', event =>
        problems.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
    new PerformanceObserver(list => list.getEntries().forEach(entry => {
        if (!entry.hadRecentInput) shifts.push([entry.value, entry.sources.map(
            source => source.node?.id || source.node?.className || source.node?.nodeName)]);
    })).observe({type: 'layout-shift', buffered: true});
"""
TAP = """
    window.played = [];
    const start = AudioBufferSourceNode.prototype.start;
    AudioBufferSourceNode.prototype.start = function (when, ...rest) {
        played.push(Array.from(this.buffer.getChannelData(0), x => Math.round(x * 32768)));
        return start.call(this, when, ...rest);
    };
"""
VISIBLE = """return [...document.querySelectorAll(arguments[0])].filter(
    each => each.checkVisibility() && each.textContent.includes(arguments[1]))"""
STORED = """const done = arguments[1];
    const request = indexedDB.open('lm-audio', 1);
    request.onsuccess = () => {
        const all = request.result.transaction('clips').objectStore('clips').getAll();
        all.onsuccess = () => {
            const clips = all.result.sort((a, b) => b.createdAt - a.createdAt);
            const clip = clips[arguments[0]];
            if (!clip) { request.result.close(); return done(null); }
            const get = request.result.transaction('sounds').objectStore('sounds').get(clip.id);
            get.onsuccess = () => {
                request.result.close();
                done({recipe: clip.recipe, samples: Array.from(get.result), title: clip.title});
            };
        };
    };"""

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="needs chromium and chromedriver (chromium-driver)"
    ),
]
Found = TypeVar("Found")
Serving = Callable[..., AbstractContextManager[tuple[str, Engine]]]
"""Serves the page with settings of `create_app` and the engine: yields its address, the engine."""


@contextmanager
def visiting(address: str, *, tap: bool = True, wait: bool = True) -> Iterator["Visit"]:
    """A fresh browser at the page.

    Args:
        wait: until the page knows the model.
        tap: record all samples that are played.
    """
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ARGUMENTS:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        driver.set_script_timeout(WAIT)
        driver.set_window_size(*WIDE)
        for source in (WATCH, TAP)[: 1 + tap]:
            driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        visit = Visit(driver, address)
        visit.arrive(wait=wait)
        yield visit
    finally:
        driver.quit()


class Visit:
    """A browser at the page."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def arrive(self, path: str = "", *, wait: bool = True) -> None:
        """Loads the page, and waits until it knows the model."""
        self.driver.get("about:blank")  # or another fragment would not load the page again
        self.driver.get(f"{self.address}/{path}")
        if wait:
            self.until(lambda: self.run("return document.documentElement.dataset.ready"))

    def until(self, look: Callable[[], Found]) -> Found:
        """What is found, as soon as it is; what the page replaces meanwhile is looked for again."""
        from selenium.common.exceptions import StaleElementReferenceException

        end = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(StaleElementReferenceException):
                if found := look():
                    return found
            assert time.monotonic() < end, self.driver.find_element("tag name", "body").text
            time.sleep(POLL)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def call(self, module: str, expression: str) -> Any:
        """The value of an expression, or of its promise, over a module of the page, `m`."""
        script = (
            "const done = arguments[0];"
            f"import('/studio/{module}').then(m => {expression})"
            ".then(done, error => done('failed: ' + error))"
        )
        return self.driver.execute_async_script(script)

    def seen(self, selector: str, text: str = "") -> list[Any]:
        """What is visible, and has this text."""
        return list(self.run(VISIBLE, selector, text))

    def still(self, selector: str) -> Any:
        """The element, once it has not moved or grown for half a second."""
        places: list[dict[str, float]] = []

        def found() -> Any:
            for element in self.seen(selector)[:1]:
                places.append(element.rect)
                if places[-6:] == [element.rect] * 6:
                    return element
            return None

        return self.until(found)

    def text(self, selector: str) -> str:
        return str(self.until(lambda: self.run(VISIBLE, selector, ""))[0].text)

    def says(self, selector: str, text: str) -> bool:
        return bool(self.until(lambda: self.seen(selector, text)))

    def click(self, selector: str, text: str = "") -> None:
        """Clicks the first visible, active element; tries again while something is in front."""
        from selenium.common.exceptions import (
            ElementClickInterceptedException,
            ElementNotInteractableException,
        )

        def clicked() -> bool:
            for found in self.seen(selector, text)[:1]:
                if not found.is_enabled():
                    return False
                with contextlib.suppress(
                    ElementClickInterceptedException, ElementNotInteractableException
                ):
                    self.run("arguments[0].scrollIntoView({block: 'center'})", found)
                    found.click()
                    return True
            return False

        self.until(clicked)

    def fill(self, field: str, value: str) -> None:
        """Puts a value into a field, as typing it and leaving the field would."""
        script = """const field = document.getElementById(arguments[0]);
            field.value = arguments[1];
            for (const name of ['input', 'change'])
                field.dispatchEvent(new Event(name, {bubbles: true}));"""
        self.run(script, field, value)

    def keys(self, keys: str) -> None:
        """Presses keys where the focus is."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def press_with_control(self, key: str) -> None:
        from selenium.webdriver import ActionChains

        control = "\ue009"
        actions = ActionChains(self.driver)
        actions.key_down(control).send_keys(key).key_up(control).perform()

    def unfocus(self) -> None:
        self.run("document.activeElement.blur()")

    def view(self, name: str) -> None:
        self.click(".bar nav a", name)
        self.until(lambda: self.seen(f"#{name.lower()}"))

    def generate(self, **fields: object) -> None:
        """Fills the form of Make, and presses Generate."""
        for name, value in fields.items():
            self.fill(name, str(value))
        self.click("#generate", "Generate")

    def finished(self, count: int) -> list[Any]:
        """Waits for this number of finished takes."""

        def menus() -> list[Any]:
            found = self.seen("#take-list .card .menu")
            return found if len(found) == count else []

        return self.until(menus)

    def upload(self, path: Path) -> None:
        """Gives a file to Timeline."""
        self.driver.find_element("id", "file").send_keys(str(path))

    def stored(self, number: int = 0) -> Any:
        """A clip of the library with its samples, the newest being 0."""
        return self.until(lambda: self.driver.execute_async_script(STORED, number))

    def samples(self, number: int = 0) -> Tensor:
        """The samples [1, N] of a mono clip of the library, the newest being 0."""
        return torch.tensor(self.stored(number)["samples"])[None] / 2**15

    def played(self) -> np.ndarray:
        """All samples that were sent to the output, in order."""
        pieces = self.run("return played")
        return np.concatenate([np.array(piece, np.int64) for piece in pieces] or [np.zeros(0)])

    def size(self, phone: bool) -> None:
        """Shows the page on a phone or on a desktop."""
        if phone:
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        width = PHONE["width"] if phone else WIDE[0]
        self.until(lambda: self.run("return innerWidth") == width)


def as_16_bits(samples: Tensor) -> Tensor:
    return (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15


def as_integers(samples: Tensor) -> np.ndarray:
    """Mono samples [1, N] as the page plays them."""
    found: np.ndarray = (samples[0] * 2**15).round().clamp(-(2**15), 2**15 - 1).numpy()
    return found.astype(np.int64)
