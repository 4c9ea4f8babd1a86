"""The page when things go wrong: each failure says what to do, and nothing is lost."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import torch

from audio_tokenizers.audio_writer import write_audio
from lm_audio.server.engine import Engine
from tests.lm_audio.app.visit import Serving, Visit, needs_browser, visiting

pytestmark = needs_browser

LONG = {"prompt": "rain", "duration": 110, "stream": True}


@contextmanager
def occupied(address: str, engine: Engine, count: int) -> Iterator[None]:
    """Keeps long clips running or queued until the end."""
    with ExitStack() as stack:
        done = threading.Event()
        stack.callback(done.set)

        def listen() -> None:
            with httpx.stream(
                "POST", f"{address}/v1/audio/generations", json=LONG, timeout=None
            ) as answer:
                done.wait()
                answer.close()

        for number in range(1, count + 1):
            thread = threading.Thread(target=listen)
            thread.start()
            stack.callback(thread.join)
            while engine.num_running + engine.num_queued < number:
                done.wait(0.05)
        stack.callback(done.set)  # first of all: the threads wait for it
        yield


def test_a_broken_file_is_named_with_the_reason_and_the_page_goes_on(
    page: Visit, tmp_path: Path
) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    page.view("Timeline")
    page.upload(tmp_path / "broken.wav")
    message = page.until(lambda: page.seen("#timeline-message.error"))[0].text
    assert message.startswith("broken.wav: ")
    assert message.endswith("Choose a WAV, FLAC, OGG or MP3 file.")
    assert str(tmp_path) not in message
    write_audio(tmp_path / "good.wav", 0.1 * torch.ones(1, 8000), 24_000)
    page.upload(tmp_path / "good.wav")
    page.until(lambda: page.seen("#track-title", "good.wav"))
    assert not page.seen("#timeline-message.error")


def test_a_refused_request_shows_the_reason_of_the_service(page: Visit) -> None:
    page.generate(prompt="not one of the two labels", duration=0.5, takes=1)
    assert page.says("#make-message.error", "label")
    assert page.says(".card .levels", "Not finished")
    page.generate(prompt="rain")
    page.until(lambda: page.seen(".card .menu"))
    assert not page.seen("#make-message.error")


def test_a_service_that_goes_and_comes_back(serving: Serving) -> None:
    with serving() as (address, _):
        port = int(address.rpartition(":")[2])
        browser = ExitStack()
        page = browser.enter_context(visiting(address))
    with browser:
        page.generate(prompt="rain", duration=0.5, takes=1)
        assert page.says("#make-message.error", "The service does not answer.")
        assert page.says("#service-message.error", "Waiting for it")
        assert not page.seen("#connection.on")
        with serving(port=port):
            page.until(lambda: page.seen("#connection.on"))
            assert page.run("return document.getElementById('prompt').value") == "rain"
            page.click("#make-message button", "Try again")
            page.until(lambda: page.seen(".card .menu"))
            assert page.run("return problems") == []


def test_a_connection_that_is_lost_midway_keeps_what_was_made(serving: Serving) -> None:
    with ExitStack() as browser:
        with serving() as (address, engine):
            page = browser.enter_context(visiting(address))
            page.generate(prompt="rain", duration=60, takes=1)
            page.until(lambda: len(page.played()) > 2000)
            engine.close(finish=False)
        message = page.until(lambda: page.seen("#make-message.error"))[0].text
        assert "shutting down" in message or "connection to the service was lost" in message
        page.until(lambda: page.seen(".card.failed"))
        page.until(lambda: not page.seen(".card.playing"))
        page.click(".card .round")
        page.until(lambda: page.seen(".card.playing"))


def test_the_place_in_the_queue_is_shown(serving: Serving) -> None:
    with serving(max_batch_size=1) as (address, engine), visiting(address) as page:
        with occupied(address, engine, 2):
            page.generate(prompt="rain", duration=0.5, takes=1)
            assert page.says(".card .levels", "Waiting, number 2 in the queue")
        page.finished(1)


def test_a_full_queue_can_be_tried_again(serving: Serving) -> None:
    with serving(max_batch_size=1, max_queue=1) as (address, engine), visiting(address) as page:
        with occupied(address, engine, 2):
            page.generate(prompt="rain", duration=0.5, takes=1)
            assert page.says("#make-message.error", "The queue is full (1 requests).")
        page.until(lambda: engine.num_running == 0)
        page.click("#make-message button", "Try again")
        page.until(lambda: page.seen(".card .menu"))


def test_leaving_the_page_frees_the_slot(serving: Serving) -> None:
    with serving() as (address, engine), visiting(address) as page:
        page.generate(prompt="rain", duration=60, takes=4)
        page.until(lambda: engine.num_running == 4)
        page.driver.get("about:blank")
        page.until(lambda: engine.num_running == 0)


def test_a_service_with_keys_asks_for_one(serving: Serving) -> None:
    with serving(keys=["secret"]) as (address, _), visiting(address, wait=False) as page:
        for key, is_right in (("wrong", False), ("secret", True)):
            page.until(lambda: page.seen("#key-dialog[open]"))
            page.fill("key", key)
            page.click("#key-dialog button", "Use")
            if not is_right:
                page.until(lambda: page.seen("#service-message.error", "invalid API key"))
        page.until(lambda: page.run("return document.documentElement.dataset.ready"))
        page.generate(prompt="rain", duration=0.5, takes=1)
        page.finished(1)
