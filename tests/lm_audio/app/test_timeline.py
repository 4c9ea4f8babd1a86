"""Timeline in a browser: sounds are opened, continued, filled, looped and taken back."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audio_tokenizers.audio_writer import write_audio
from lm_audio.pipeline import AudioPipeline
from tests.lm_audio.app.visit import Visit, as_16_bits, as_integers, needs_browser

pytestmark = needs_browser

RATE = 24_000


@pytest.fixture
def noise(tmp_path: Path) -> tuple[Path, Tensor]:
    """A quiet file of one second."""
    samples = as_16_bits(0.05 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)))
    write_audio(tmp_path / "noise.wav", samples, RATE)
    return tmp_path / "noise.wav", samples


def open_file(page: Visit, path: Path) -> None:
    page.view("Timeline")
    page.upload(path)
    page.until(lambda: page.seen("#track-title", path.name))


def select(page: Visit, start: float, end: float) -> None:
    """Types a span."""
    page.fill("from", str(start))
    page.fill("to", str(end))
    page.until(lambda: page.seen("#fill:enabled"))


def test_a_file_is_continued_and_its_own_samples_are_kept(
    page: Visit, noise: tuple[Path, Tensor], model: AudioPipeline
) -> None:
    path, samples = noise
    open_file(page, path)
    page.fill("extend", "0.5")
    page.fill("edit-prompt", "rain")
    page.click("#continue")
    page.until(lambda: page.seen("#versions button", "Continued by 0.5 s"))
    made = page.samples()
    assert made.shape == (1, RATE + RATE // 2)
    assert torch.equal(made[:, :RATE], samples)
    seed = page.stored()["recipe"]["seed"]
    clip = model.continue_from(path, duration=0.5, text="rain", seed=seed)
    assert torch.equal(made, as_16_bits(clip.samples))
    # It plays from one second before the seam to the end.
    page.until(lambda: len(page.played()) >= RATE + RATE // 2)
    np.testing.assert_array_equal(page.played(), as_integers(clip.samples))


def test_a_selection_is_dragged_snaps_to_zero_crossings_and_is_filled(
    page: Visit, noise: tuple[Path, Tensor], model: AudioPipeline
) -> None:
    from selenium.webdriver import ActionChains

    path, samples = noise
    open_file(page, path)
    wave = page.still("#waveform")
    quarter = wave.rect["width"] // 4
    drag = ActionChains(page.driver).move_to_element_with_offset(wave, -quarter, 0)
    drag.click_and_hold().move_by_offset(quarter, 0).move_by_offset(quarter, 2).release().perform()
    page.until(lambda: page.seen("#fill:enabled"))
    start, end = (
        float(page.run(f"return document.getElementById('{name}').value"))
        for name in ("from", "to")
    )
    assert (start, end) == (pytest.approx(0.25, abs=0.05), pytest.approx(0.75, abs=0.05))
    page.click("#fill", "Fill")
    page.until(lambda: page.seen("#versions button", "Filled"))
    made, recipe = page.samples(), page.stored()["recipe"]
    for edge in (recipe["start"], recipe["end"]):
        before, after = samples[0, round(edge * RATE) - 1], samples[0, round(edge * RATE)]
        assert before < 0 <= after
    span = {"start": recipe["start"], "end": recipe["end"]}
    clip = model.inpaint(path, **span, seed=recipe["seed"])
    assert torch.equal(made, as_16_bits(clip.samples))
    outside = torch.ones(RATE, dtype=torch.bool)
    outside[int(recipe["start"] * RATE) - 1 : int(recipe["end"] * RATE) + 2] = False
    assert torch.equal(made[0, outside], samples[0, outside])
    assert not torch.equal(made, samples)


def test_versions_are_undone_and_redone(page: Visit, noise: tuple[Path, Tensor]) -> None:
    open_file(page, noise[0])
    page.click("#snap")  # off
    select(page, 0.25, 0.5)
    page.click("#fill", "Fill")
    page.until(lambda: page.seen("#versions button", "Filled 0.25 to 0.50 s"))
    page.fill("extend", "1")
    page.click("#continue")
    page.until(lambda: page.seen("#versions button", "Continued by 1 s"))

    def current() -> str:
        return page.text("#versions button[aria-current]").splitlines()[0]

    page.click("#undo")
    assert current() == "Filled 0.25 to 0.50 s"
    page.unfocus()
    page.press_with_control("z")
    page.until(lambda: current() == "noise.wav")
    assert not page.seen("#undo:enabled")
    page.click("#redo")
    page.click("#versions button", "Continued")
    assert current() == "Continued by 1 s"
    assert page.says("#time", "/ 0:02.0")


def test_a_selection_loops_to_the_sample(page: Visit, noise: tuple[Path, Tensor]) -> None:
    path, samples = noise
    open_file(page, path)
    page.click("#snap")  # off
    select(page, 0.25, 0.5)
    page.click("#loop")
    page.click("#play")
    # From the beginning to the end of the selection, then the selection again and again.
    page.until(lambda: len(page.played()) >= 24_000)
    whole = as_integers(samples)
    loop = whole[6_000:12_000]
    expected = np.concatenate([whole[:12_000], *[loop] * 20])
    played = page.played()
    np.testing.assert_array_equal(played, expected[: len(played)])
    page.unfocus()
    page.keys(" ")
    page.until(lambda: page.seen("#play[aria-label=Play]"))


def test_the_end_is_dragged_by_mouse_and_keyboard(page: Visit, noise: tuple[Path, Tensor]) -> None:
    from selenium.webdriver import ActionChains

    open_file(page, noise[0])
    grip, width = page.still("#tail-grip"), page.seen("#tail")[0].rect["width"]
    drag = ActionChains(page.driver).click_and_hold(grip).move_by_offset(-round(width * 0.4), 0)
    drag.release().perform()
    page.until(lambda: page.text("#tail-label") == "+3 s")
    page.run("arguments[0].focus()", grip)
    page.keys("\ue014\ue014")  # right, twice
    page.until(lambda: page.text("#tail-label") == "+4 s")
    assert page.run("return document.getElementById('extend').value") == "4"
    assert grip.get_attribute("aria-valuenow") == "4"


def test_a_recording_is_opened(page: Visit) -> None:
    page.view("Timeline")
    page.click("#record", "Record")
    page.until(lambda: page.seen("#timeline-message", "Recording"))
    page.until(lambda: page.seen("#record", "Stop recording"))
    heard = page.run("return performance.now()")
    page.until(lambda: page.run("return performance.now()") > heard + 1500)  # of the fake beeps
    page.click("#record", "Stop recording")
    page.until(lambda: page.seen("#track-title", "Recording"))
    samples = page.samples()
    assert samples.shape[1] > 0.5 * RATE
    assert samples.abs().max() > 0.01


def test_a_dropped_file_is_opened(page: Visit, noise: tuple[Path, Tensor]) -> None:
    path, samples = noise
    script = """const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], 'dropped.wav'));
        const options = {dataTransfer, bubbles: true, cancelable: true};
        document.body.dispatchEvent(new DragEvent('drop', options));"""
    page.run(script, base64.b64encode(path.read_bytes()).decode())
    page.until(lambda: page.seen("#track-title", "dropped.wav"))
    assert torch.equal(page.samples(), samples)


def test_a_take_is_sent_to_the_timeline(page: Visit) -> None:
    page.generate(prompt="rain", duration=0.5, takes=1)
    page.finished(1)
    page.click(".card button", "Edit")
    page.until(lambda: page.seen("#track-title", "rain"))
    assert page.says("#time", "/ 0:00.5")


def test_zero_crossings_are_those_of_a_naive_search(page: Visit) -> None:
    generator = np.random.default_rng(0)
    values = (3000 * generator.standard_normal(2000)).astype(np.int16)
    values[500:1200] = np.abs(values[500:1200]) + 1  # a part without crossings
    frames = [0, 1, 5, 100, 499, 700, 850, 1199, 1500, 1999, 2000]
    script = f"Int16Array.from({values.tolist()})"
    sound = f"m.Sound.of(24000, 1, {script})"
    found = page.call("sound.js", f"{frames}.map(f => m.zeroCrossing({sound}, f, 50))")
    assert found == [naive_crossing(values, frame, 50) for frame in frames]


def naive_crossing(values: Any, frame: int, reach: int) -> int:
    near = range(max(0, frame - reach), min(len(values), frame + reach + 1))
    crossings = [i for i in near if i > near[0] and values[i - 1] < 0 <= values[i]]
    if crossings:
        return min(crossings, key=lambda i: abs(i - frame))
    return min(near, key=lambda i: abs(int(values[i])))
