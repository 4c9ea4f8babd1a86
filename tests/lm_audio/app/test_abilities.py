"""What only some models can do: stories, loops, variations, melodies, and takes that are ranked."""

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.pipeline import AudioPipeline
from tests.lm_audio.app.conftest import EnergyJudge, serving_page
from tests.lm_audio.app.visit import Visit, as_16_bits, as_integers, needs_browser, visiting
from tests.lm_audio.families.audiocraft import test_melody as melodies
from tests.lm_audio.generation.test_diffusion_stage import RATE

pytestmark = needs_browser

CONTROLS = ("#story", "#seamless", "#melody-field", "#edit-story", "#vary")
LEFT, RIGHT, DELETE, ENTER, END = "\ue012", "\ue014", "\ue017", "\ue007", "\ue010"
HUM = as_16_bits(0.3 * torch.sin(torch.arange(RATE) / 5)[None])


@pytest.fixture
def visit(denoising: str) -> Iterator[Visit]:
    with visiting(denoising) as found:
        yield found
        assert found.run("return problems") == []


@pytest.fixture
def hum(tmp_path: Path) -> Path:
    write_audio(tmp_path / "hum.wav", HUM, RATE)
    return tmp_path / "hum.wav"


def open_file(page: Visit, path: Path) -> None:
    page.view("Timeline")
    page.upload(path)
    page.until(lambda: page.seen("#track-title", path.name))


def add(page: Visit, text: str, *, place: str = "#story") -> None:
    """A later prompt, whose field has the focus."""
    page.click(f"{place} button", "Add a later prompt")
    page.keys(text)


def shown(page: Visit, selector: str) -> list[str]:
    values: list[str] = page.run(
        "return [...document.querySelectorAll(arguments[0])].map(each => each.value)", selector
    )
    return values


def test_only_what_the_model_can_do_is_shown(
    tiny: tuple[str, Any], visit: Visit, hum: Path, tmp_path: Path
) -> None:
    def able(page: Visit, path: Path) -> dict[str, bool]:
        found = {name: bool(page.seen(name)) for name in CONTROLS}
        open_file(page, path)
        return found | {name: found[name] or bool(page.seen(name)) for name in CONTROLS}

    assert able(visit, hum) == dict(zip(CONTROLS, (True, True, False, True, True), strict=True))
    with visiting(tiny[0]) as page:
        write_audio(tmp_path / "quiet.wav", 0.01 * torch.ones(1, 24_000), 24_000)
        expected = dict(zip(CONTROLS, (True, False, False, True, False), strict=True))
        assert able(page, tmp_path / "quiet.wav") == expected
        page.unfocus()
        page.keys("v")  # no shortcut for what is not there
        assert len(page.seen("#versions button")) == 1
        page.view("Make")
        page.generate(prompt="rain", duration=0.5, takes=2)
        page.finished(2)
        assert not page.seen(".badge")
        assert not page.seen(".card [aria-label=Repeat]")
        page.click(".card .menu summary")
        assert not page.seen(".menu-item", "Vary")


def test_prompts_over_time_are_those_of_a_story(visit: Visit, diffusion: AudioPipeline) -> None:
    page = visit
    page.fill("duration", "2")
    page.fill("prompt", "rain")
    add(page, "wind")  # in the middle
    add(page, "rain")  # in the middle of what is left
    assert shown(page, ".story-list input[type=number]")[:2] == ["1", "1.5"]
    page.generate(takes=1, seed=3)
    page.finished(1)
    story = [(0.0, "rain"), (1.0, "wind"), (1.5, "rain")]
    clip = diffusion.generate(story, duration=2.0, seed=3)
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    assert page.stored()["recipe"]["story"] == "0: rain; 1: wind; 1.5: rain"
    assert page.stored()["title"] == "rain → wind → rain"
    page.click(".story-list button")  # prompt 2 goes, and prompt 3 takes its number
    assert page.run("return document.activeElement.getAttribute('aria-label')") == "Prompt 2"
    page.generate(takes=1, seed=4)
    page.finished(2)
    clip = diffusion.generate([(0.0, "rain"), (1.5, "rain")], duration=2.0, seed=4)
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    page.until(lambda: page.seen("#take-list .card:nth-child(2) .menu"))
    page.click("#take-list .card:nth-child(2) .menu summary")
    page.click(".menu-item", "Use these settings")
    page.until(lambda: len(page.seen(".story-list li")) == 2)
    assert shown(page, ".story-list input:not([type])") == ["wind", "rain"]


def test_a_marker_is_moved_by_mouse_and_keyboard(visit: Visit) -> None:
    from selenium.webdriver import ActionChains

    page = visit
    page.fill("duration", "10")
    page.fill("prompt", "rain")
    add(page, "wind")
    marker = page.still(".story-marker")
    width = page.seen(".story-lane")[0].rect["width"]
    drag = ActionChains(page.driver).click_and_hold(marker)
    drag.move_by_offset(-round(width * 0.2), 0).release().perform()
    start = "return Number(document.querySelector('.story-list input').value)"
    page.until(lambda: page.run(start) == pytest.approx(3, abs=0.11))
    assert len(page.seen(".story-marker")) == 1  # the end of a drag is no click on the lane
    before = page.run(start)
    page.run("arguments[0].focus()", marker)
    page.keys(RIGHT + RIGHT + LEFT)
    page.until(lambda: page.run(start) == pytest.approx(before + 0.1))
    page.keys(END)
    page.until(lambda: page.run(start) == 9.9)
    assert marker.get_attribute("aria-valuetext") == "9.9 seconds"
    page.keys(ENTER)
    assert page.run("return document.activeElement.getAttribute('aria-label')") == "Prompt 2"
    lane = page.seen(".story-lane")[0]
    ActionChains(page.driver).move_to_element(lane).click().perform()  # one more, in the middle
    page.until(lambda: len(page.seen(".story-marker")) == 2)
    assert shown(page, ".story-list input[type=number]") == ["5", "9.9"]
    page.run("document.querySelector('.story-marker').focus()")
    page.keys(END)  # up to its neighbour
    assert shown(page, ".story-list input[type=number]") == ["9.8", "9.9"]
    page.keys(DELETE)
    page.until(lambda: len(page.seen(".story-marker")) == 1)


def test_a_story_that_cannot_be_told_names_the_prompt(visit: Visit) -> None:
    page = visit
    page.fill("duration", "10")
    page.fill("prompt", "rain")
    add(page, "")
    page.click("#generate", "Generate")
    assert page.says("#make-message.error", "Prompt 2 is empty.")
    assert page.run("return document.activeElement.getAttribute('aria-label')") == "Prompt 2"
    page.keys("wind")
    page.fill("duration", "3")
    page.click("#generate", "Generate")
    assert page.says("#make-message.error", "Prompt 2 starts at 5 s, but the sound ends at 3 s.")
    assert not page.seen(".card")


def test_a_continuation_follows_a_story(visit: Visit, hum: Path, diffusion: AudioPipeline) -> None:
    page = visit
    open_file(page, hum)
    page.fill("extend", "1")
    page.fill("edit-prompt", "rain")
    add(page, "wind", place="#edit-story")
    page.click("#continue")
    page.until(lambda: page.seen("#versions button", "Continued by 1 s"))
    seed = page.stored()["recipe"]["seed"]
    story = [(0.0, "rain"), (0.5, "wind")]
    clip = diffusion.continue_from((HUM, RATE), duration=1.0, text=story, seed=seed)
    assert torch.equal(page.samples(), as_16_bits(clip.samples))


def test_a_loop_is_made_and_repeated(visit: Visit, diffusion: AudioPipeline) -> None:
    page = visit
    page.click("#seamless")
    page.generate(prompt="rain", duration=1, takes=1, seed=3)
    page.finished(1)
    clip = diffusion.generate("rain", duration=1.0, seed=3, loop=True)
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    page.until(lambda: page.seen(".card [aria-label=Repeat][aria-pressed=true]"))
    page.until(lambda: len(page.played()) > 3 * RATE)
    whole = as_integers(clip.samples)
    page.click(".card .round")  # pause
    page.run("played.length = 0")
    page.click(".card .screen")  # from the middle
    page.until(lambda: len(page.played()) > 2 * RATE)
    played = page.played()
    where = np.flatnonzero((whole == played[0]) & (np.roll(whole, -1) == played[1]))
    endings = [np.resize(np.roll(whole, -start), len(played)) for start in where]
    assert any(np.array_equal(played, expected) for expected in endings)
    page.click(".card [aria-label=Repeat]")
    page.until(lambda: not page.seen(".card.playing"))  # to the end, and no more
    page.fill("duration", "5")
    page.click("#generate", "Generate")
    assert page.says("#make-message.error", "A loop can be at most 2 seconds long")
    page.click("#take-list .card:nth-child(2) button", "Edit")
    page.until(lambda: page.seen("#loop[aria-pressed=true]"))


def test_the_best_take_is_marked(visit: Visit, diffusion: AudioPipeline) -> None:
    page = visit
    page.generate(prompt="wind", duration=1, takes=3, seed=5)
    page.finished(3)
    page.until(lambda: page.seen(".badge", "Best match"))
    clips = [diffusion.generate("wind", duration=1.0, seed=seed) for seed in (5, 6, 7)]
    scores = [EnergyJudge().score(clip.samples, RATE, "wind") for clip in clips]
    marks = [bool(card.find_elements("css selector", ".badge:not([hidden])"))
             for card in page.seen(".card")]  # fmt: skip
    assert marks == [score == max(scores) for score in scores]
    details = [each.text for each in page.seen(".card-detail")]
    assert details == [
        f"1 s, seed {seed}, match {score:.2f}"
        for seed, score in zip((5, 6, 7), scores, strict=True)
    ]


def test_a_clip_is_varied_by_a_strength(
    visit: Visit, diffusion: AudioPipeline, hum: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit
    open_file(page, hum)
    page.fill("edit-prompt", "wind")
    slider = page.seen("#strength")[0]
    page.run("arguments[0].focus()", slider)
    page.keys(RIGHT * 4)
    assert page.text("#strength-value") == "60 %"
    assert slider.get_attribute("aria-valuetext") == "60 %"
    page.unfocus()
    page.keys("v")
    page.until(lambda: page.seen("#versions button", "Varied by 60 %"))
    recipe = page.stored()["recipe"]
    assert (recipe["verb"], recipe["strength"], recipe["text"]) == ("vary", 0.6, "wind")
    clip = diffusion.vary((HUM, RATE), strength=0.6, text="wind", seed=recipe["seed"])
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    page.view("Library")
    page.click(".menu summary")
    page.click(".menu-item", "Copy as code")
    page.until(lambda: page.seen("#code[open]"))
    command, python, curl = [each.text for each in page.seen("#code pre")]
    words = shlex.split(command)
    assert words[:3] == ["lm-audio", "vary", recipe["audio"]]
    assert words[words.index("--strength") + 1] == "0.6"
    assert "model.vary(" in python
    monkeypatch.chdir(hum.parent)
    hum.rename(recipe["audio"])
    subprocess.run(["bash", "-c", curl], check=True, capture_output=True)
    written = read_audio(curl.rpartition("> ")[2]).samples
    assert torch.equal(written, as_16_bits(clip.samples))
    page.click("#code button", "Close")
    page.click(".menu summary")
    page.click(".menu-item", "Vary")
    page.until(lambda: page.run("return document.activeElement.id") == "strength")


def test_the_code_of_a_story_and_of_a_loop_makes_it_again(
    visit: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit
    monkeypatch.chdir(tmp_path)
    page.click("#seamless")
    page.fill("duration", "2")
    page.fill("prompt", "rain")
    add(page, "wind")
    page.generate(takes=1, seed=3)
    page.finished(1)
    page.click(".menu summary")
    page.click(".menu-item", "Copy as code")
    page.until(lambda: page.seen("#code[open]"))
    command, python, curl = [each.text for each in page.seen("#code pre")]
    assert "--story '0: rain; 1: wind'" in command
    assert "--loop" in command
    assert 'model.generate([(0, "rain"), (1, "wind")], ' in python
    assert "loop=True" in python
    subprocess.run(["bash", "-c", curl], check=True, capture_output=True)
    written = read_audio(curl.rpartition("-o ")[2]).samples
    assert torch.equal(as_16_bits(written), page.samples())


def test_a_file_beyond_the_limit_gets_one_clear_message(visit: Visit, tmp_path: Path) -> None:
    page = visit
    for seconds in (12.3, 40):  # just below the limit without its form, and far beyond
        write_audio(tmp_path / "long.wav", torch.zeros(1, round(seconds * RATE)), RATE)
        size = (tmp_path / "long.wav").stat().st_size
        assert size > 98_000
        page.view("Timeline")
        page.upload(tmp_path / "long.wav")
        megabytes = f"{size / 1e6:.3g}"
        message = f"long.wav: The file has {megabytes} MB, but the service takes at most 0.1 MB."
        if size > 99_000:
            assert page.says("#timeline-message.error", message)
            assert len(page.seen(".message.error")) == 1
            assert page.seen("#connection.on")
        else:
            page.until(lambda: page.seen("#track-title", "long.wav"))
    # Small files can be long: the service counts the seconds, and its sentence is shown.
    write_audio(tmp_path / "hours.flac", torch.zeros(1, 700 * RATE), RATE)
    page.upload(tmp_path / "hours.flac")
    assert page.says("#timeline-message.error", "is longer than the maximum of 600 s.")
    assert "Choose a WAV" not in page.text("#timeline-message")
    write_audio(tmp_path / "long.flac", torch.zeros(1, 30 * RATE), RATE)
    page.upload(tmp_path / "long.flac")
    assert page.says("#track-title", "long.flac")
    page.click("#vary")  # sends the clip as WAV
    assert page.says("#edit-message.error", "The file has 0.24 MB, but the service takes at most")


def test_clips_follow_a_melody(tiny_t5: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    melodies.make_model().save_pretrained(folder)
    for file in tiny_t5.glob("tokenizer*.json"):
        shutil.copy(file, folder)
    settings = {"sampling_rate": melodies.RATE, "n_fft": melodies.WINDOW}
    settings["chunk_length"] = melodies.SECONDS
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    singer = lm_audio.load(folder, device="cpu")
    tune = as_16_bits(melodies.TUNE)
    write_audio(tmp_path / "tune.wav", tune, melodies.RATE)
    with serving_page(singer, name=str(folder)) as (address, _), visiting(address) as page:
        assert page.seen("#melody-field", "No file")
        page.driver.find_element("id", "melody").send_keys(str(tmp_path / "tune.wav"))
        page.until(lambda: page.seen("#melody-name", "tune.wav"))
        page.generate(prompt="rain", duration=0.5, takes=1, seed=3)
        page.finished(1)
        given = {"melody": (tune, melodies.RATE)}
        clip = singer.generate("rain", duration=0.5, seed=3, conditions=given)
        assert torch.equal(page.samples(), as_16_bits(clip.samples))
        recipe = page.stored()["recipe"]
        assert recipe["melody"] == "tune.wav"
        code = page.call("recipe.js", f"m.asPython({json.dumps(recipe)}, {{stages: []}})")
        assert 'conditions={"melody":"tune.wav"}' in code
        page.click("#remove-melody")
        page.until(lambda: page.seen("#melody-name", "No file"))
        page.generate(seed=3)
        page.finished(2)
        clip = singer.generate("rain", duration=0.5, seed=3)
        assert torch.equal(page.samples(), as_16_bits(clip.samples))
        page.click("#take-list .card:nth-child(2) .menu summary")
        page.click(".menu-item", "Use these settings")
        assert page.says("#make-message", "Choose the melody again: tune.wav")
        assert page.run("return problems") == []
