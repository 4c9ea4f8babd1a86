"""Library in a browser: clips are kept, found, downloaded, and made again from their code."""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio import origin
from lm_audio.cli import main
from lm_audio.pipeline import AudioPipeline
from tests.lm_audio.app.visit import Visit, as_16_bits, as_integers, needs_browser

pytestmark = needs_browser

RATE = 24_000


def test_clips_are_kept_starred_searched_and_played(page: Visit, model: AudioPipeline) -> None:
    page.generate(prompt="rain", duration=0.5, takes=2, seed=1)
    page.finished(2)
    page.generate(prompt="a dog", duration=0.5, takes=1, seed=9)
    page.finished(3)
    page.until(lambda: page.stored(2))
    page.arrive("#library")
    page.until(lambda: len(page.seen("#clip-list .card")) == 3)
    page.fill("search", "DOG")
    page.until(lambda: len(page.seen("#clip-list .card")) == 1)
    page.click("#clip-list [aria-label=Star]")
    page.until(lambda: page.seen("#clip-list [aria-label=Star][aria-pressed=true]"))
    page.fill("search", "")
    page.until(lambda: len(page.seen("#clip-list .card")) == 3)
    page.arrive("#library")  # what is starred was kept
    page.click("#starred")
    page.until(lambda: len(page.seen("#clip-list .card")) == 1)
    page.click("#clip-list .card .round")
    page.until(lambda: len(page.played()) == RATE // 2)
    dog = model.generate("a dog", duration=0.5, seed=9)
    np.testing.assert_array_equal(page.played(), as_integers(dog.samples))


def test_clips_are_deleted_alone_and_together(page: Visit) -> None:
    page.generate(prompt="rain", duration=0.5, takes=3)
    page.finished(3)
    page.view("Library")
    page.until(lambda: len(page.seen("#clip-list .card")) == 3)
    page.click("#clip-list .menu summary")
    page.click(".menu-item", "Delete")
    page.until(lambda: len(page.seen("#clip-list .card")) == 2)
    page.click("#clear")
    page.click("#confirm button", "Keep")
    assert len(page.seen("#clip-list .card")) == 2
    page.click("#clear")
    page.click("#confirm button", "Delete")
    page.until(lambda: page.seen("#library-empty"))
    page.arrive("#library")
    page.until(lambda: page.seen("#library-empty"))


def downloads(page: Visit, folder: Path) -> None:
    where = {"behavior": "allow", "downloadPath": str(folder)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)


def downloaded(page: Visit, folder: Path, suffix: str) -> Path:
    def complete() -> list[Path]:
        return [path for path in folder.iterdir() if path.suffix == suffix]

    return page.until(complete)[0]


def test_downloads_hold_the_sound_and_its_recipe(
    page: Visit, tmp_path: Path, model: AudioPipeline, model_folder: Path
) -> None:
    downloads(page, tmp_path)
    page.generate(prompt="rain", duration=0.5, takes=1, seed=4)
    page.finished(1)
    clip = model.generate("rain", duration=0.5, seed=4)
    recipe = {"verb": "generate", "model": str(model_folder), "prompt": "rain"}
    recipe |= {"duration": 0.5, "seed": 4, "device": "cpu", "dtype": "float32"}
    for suffix in ("wav", "flac", "mp3"):
        page.click(".card .menu summary")
        page.click(".menu-item", f"Download {suffix.upper()}")
        path = downloaded(page, tmp_path, f".{suffix}")
        assert path.name == f"rain-4.{suffix}"
        made = read_audio(path)
        assert made.sample_rate == RATE
        if suffix != "mp3":
            assert torch.equal(made.samples, as_16_bits(clip.samples))
        kept = origin.read_origin(path)
        kept.pop("lm-audio")
        assert kept == recipe
    page.click(".card .menu summary")
    page.click(".menu-item", "Download recipe")
    facts = json.loads(downloaded(page, tmp_path, ".json").read_text())
    facts.pop("lm-audio")
    assert facts == recipe


def code_of(page: Visit) -> dict[str, str]:
    """The blocks of the dialog with code, of the newest clip."""
    page.click(".menu summary")
    page.click(".menu-item", "Copy as code")
    page.until(lambda: page.seen("#code[open]"))
    blocks = page.run(
        "return [...document.querySelectorAll('.code')].map(e => [e.ariaLabel, e.textContent])"
    )
    page.click("#code button", "Close")
    return dict(blocks)


def test_the_code_of_a_clip_makes_it_again(
    page: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page.click("#settings summary")
    page.fill("negative", "a dog")
    page.fill("temperature", "0.7")
    page.generate(prompt="rain", duration=0.5, takes=1, seed=6)
    page.finished(1)
    expected = page.samples()
    code, recipe = code_of(page), page.stored()["recipe"]
    command = f"{origin.command(recipe)} -o rain-6.wav"  # which has another order
    assert sorted(shlex.split(code["Command line"])) == sorted(shlex.split(command))
    run_each(code, tmp_path / "rain-6.wav", expected)


def test_the_code_of_edits_makes_them_again(
    page: Visit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = as_16_bits(0.05 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(1)))
    write_audio(tmp_path / "my-noise.wav", noise, RATE)
    page.view("Timeline")
    page.upload(tmp_path / "my-noise.wav")
    page.until(lambda: page.seen("#track-title", "my-noise.wav"))
    (tmp_path / "my-noise.wav").rename(tmp_path / "my-noise-wav.wav")  # as a download is named
    page.fill("extend", "0.5")
    page.click("#continue")
    page.until(lambda: page.seen("#versions button", "Continued"))
    page.view("Library")
    seed = page.stored()["recipe"]["seed"]
    run_each(code_of(page), tmp_path / f"my-noise-wav-{seed}.wav", page.samples())


def run_each(code: dict[str, str], path: Path, expected: Any) -> None:
    """Runs the command, the Python and the curl lines, and compares what they write."""
    assert list(code) == ["Command line", "Python", "curl"]
    for kind, text in code.items():
        path.unlink(missing_ok=True)
        if kind == "Command line":
            words = subprocess.run(
                ["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True
            )
            _, *arguments = os.fsdecode(words.stdout).rstrip("\0").split("\0")
            main(arguments)
        elif kind == "Python":
            exec(compile(text, "code", "exec"), {})
        else:
            subprocess.run(["bash", "-c", text], capture_output=True, check=True)
        made = as_16_bits(read_audio(path).samples)
        assert torch.equal(made, expected), kind
