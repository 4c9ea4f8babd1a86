"""Make in a browser: prompts become sound that plays while it is made."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lm_audio.pipeline import AudioPipeline
from lm_audio.server.engine import Engine
from tests.lm_audio.app.visit import Visit, as_16_bits, as_integers, needs_browser, visiting

pytestmark = needs_browser


def test_a_prompt_becomes_the_sound_of_generate_and_plays_while_it_is_made(
    page: Visit, model: AudioPipeline
) -> None:
    page.generate(prompt="rain", duration=1, takes=1, seed=7)
    page.finished(1)
    clip = model.generate("rain", duration=1.0, seed=7)
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    page.until(lambda: len(page.played()) == 24_000)
    np.testing.assert_array_equal(page.played(), as_integers(clip.samples))
    (first,) = page.run("return performance.getEntriesByName('first sound').map(e => e.duration)")
    assert first > 0
    assert page.text(".card .levels").split() != []
    assert "LUFS" in page.text(".card .levels")


def test_takes_have_seeds_in_sequence_and_play_by_their_number(
    page: Visit, model: AudioPipeline
) -> None:
    page.generate(prompt="rain", duration=0.5, takes=3, seed=20)
    page.finished(3)
    details = [each.text for each in page.seen(".card-detail")]
    assert details == ["0.5 s, seed 20", "0.5 s, seed 21", "0.5 s, seed 22"]
    page.until(lambda: not page.seen(".card.playing"))
    page.run("played.length = 0")
    page.unfocus()
    page.keys("3")
    page.until(lambda: len(page.played()) == 12_000)
    third = model.generate("rain", duration=0.5, seed=22)
    np.testing.assert_array_equal(page.played(), as_integers(third.samples))


def test_a_seed_is_new_each_time_unless_it_is_locked(page: Visit) -> None:
    page.fill("duration", "0.5")
    page.fill("takes", "1")
    seeds = []
    for count in (1, 2):
        page.click("#generate", "Generate")
        page.finished(count)
        seeds.append(page.run("return document.getElementById('seed').value"))
    page.click("#seed-lock")
    page.click("#generate", "Generate")
    page.finished(3)
    seeds.append(page.run("return document.getElementById('seed').value"))
    assert seeds[0] != seeds[1] == seeds[2]
    page.generate(seed="-1")
    assert page.says("#make-message", "The seed must be a whole number from 0")
    page.generate(seed="5")
    page.finished(4)
    assert page.seen("#make-message")[0].text == ""


def test_settings_are_those_of_the_model_and_change_the_clip(
    page: Visit, model: AudioPipeline
) -> None:
    page.click("#settings summary")
    for name in ("negative", "guidance_scale", "temperature", "top_k"):
        page.until(lambda name=name: page.seen(f"#{name}"))
    assert not page.seen("#steps")  # for models that denoise
    page.fill("guidance_scale", "5")
    page.fill("negative", "a dog")
    page.generate(prompt="rain", duration=0.5, takes=1, seed=3)
    page.finished(1)
    sampling = {
        name: replace(stage.sampling, guidance_scale=5.0) for name, stage in model.stages.items()
    }
    clip = model.generate("rain", duration=0.5, seed=3, sampling=sampling, negative="a dog")
    assert torch.equal(page.samples(), as_16_bits(clip.samples))
    page.click(".card .menu summary")
    page.click(".menu-item", "Use these settings")
    assert page.run("return document.getElementById('guidance_scale').value") == "5"


def test_enter_generates_and_escape_stops_which_frees_the_slot(
    page: Visit, tiny: tuple[str, Engine]
) -> None:
    page.fill("duration", "60")
    page.driver.find_element("id", "prompt").send_keys("rain\n")
    page.until(lambda: page.seen("#generate", "Stop"))
    page.until(lambda: tiny[1].num_running)
    page.keys("\ue00c")  # Escape
    assert page.says("#make-message", "Stopped.")
    assert page.says(".card .levels", "Stopped")
    page.until(lambda: tiny[1].num_running == 0)
    page.generate(duration=0.5, takes=1)
    page.finished(1)


def test_a_stopped_take_plays_what_was_made_of_it(page: Visit) -> None:
    page.generate(prompt="rain", duration=60, takes=1)
    page.until(lambda: len(page.played()) > 2000)
    page.click("#generate", "Stop")
    page.until(lambda: not page.seen(".card.playing"))
    page.click(".card .round")
    page.until(lambda: page.seen(".card.playing"))


def test_known_prompts_fill_the_field_and_unknown_ones_get_a_notice(bundled: Any) -> None:
    address, pipeline = bundled
    with visiting(address) as page:
        page.fill("duration", "0.5")
        page.generate(prompt="jazz", takes=1)
        assert page.says("#notice", "The model was not trained on prompts like 'jazz'")
        page.finished(1)
        page.click(".chip", "Show all")
        assert len(page.seen(".chip")) == len(pipeline.card.known.examples) + 1
        page.click(".chip", "a dog barking")
        page.generate()
        page.finished(2)
        assert not page.seen("#notice", "not trained")
        times = page.run(
            "return performance.getEntriesByName('first sound').map(e => Math.round(e.duration))"
        )
        print(f"\nfirst sound after the click: {times} ms")
        assert len(times) == 2
        assert page.run("return problems") == []


@pytest.mark.parametrize("width", ["desktop", "phone"])
def test_the_facts_of_the_model_are_in_sight(page: Visit, width: str) -> None:
    page.size(phone=width == "phone")
    assert "24 kHz mono · Apache-2.0" in page.text("#model-facts")
