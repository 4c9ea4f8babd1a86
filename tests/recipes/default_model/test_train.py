"""The script that makes the embedded default: it stops, skips, and leads to a model."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lm_audio

RECIPES = Path(__file__).parents[3] / "recipes"
SCRIPT = RECIPES / "default_model/train.sh"


def run(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    given = {"PRESET": "tiny", "OUT": str(out), "PYTHON": sys.executable} | variables
    return subprocess.run(
        ["bash", SCRIPT], env={**os.environ, **given}, capture_output=True, text=True, check=False
    )


def steps(shown: str) -> dict[str, str]:
    """What was last said of each step."""
    return dict(re.findall(r"^== (\w+): (.*)$", shown, re.MULTILINE))


@pytest.mark.parametrize("preset", ["tiny", "default"])
def test_what_is_done_is_not_done_again(preset: str, tmp_path: Path) -> None:
    said = {"PRESET": preset, "PYTHON": "echo"}  # which says what would be run
    for path in ("decoder_float32", "masked_float32"):
        (tmp_path / path).mkdir()
        (tmp_path / path / "config.json").touch()
    first = run(tmp_path, **said)
    assert first.returncode == 0, first.stderr
    named = re.findall(r"^(recipes/[\w/]+\.py) ", first.stdout, re.MULTILINE)
    assert len(named) >= 15
    assert f"--preset {preset}" in first.stdout
    again = run(tmp_path, **said)
    assert set(steps(again.stdout)) == set(steps(first.stdout))
    assert set(steps(again.stdout).values()) == {"done before"}
    (tmp_path / "done/acoustic").unlink()
    third = run(tmp_path, **said).stdout
    assert [name for name, last in steps(third).items() if last != "done before"] == ["acoustic"]


def test_it_stops_at_the_first_error(tmp_path: Path) -> None:
    done = run(tmp_path, PYTHON="false")
    assert done.returncode != 0
    assert list(steps(done.stdout)) == ["effects"]
    assert not (tmp_path / "done").exists()


def test_an_unknown_preset_gets_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, PRESET="huge")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "train.sh: got PRESET=huge; expected default or tiny.\n"


def test_a_copy_outside_a_clone_gets_one_line(tmp_path: Path) -> None:
    copy = tmp_path / "recipes/default_model/train.sh"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(SCRIPT.read_bytes())
    done = subprocess.run(["bash", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "run it in a clone of the repository" in done.stderr


@pytest.mark.chain
def test_it_makes_a_model_of_made_up_sounds_and_its_figures(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    model = lm_audio.load(tmp_path / "model")
    assert model.card.licence == "Apache-2.0"
    clip = model.generate("a dog barking", duration=1.0, seed=7)
    assert clip.duration == 1.0
    clip.save(tmp_path / "prompt.wav")
    assert model.continue_from(tmp_path / "prompt.wav", duration=0.5, seed=1).duration == 1.5
    weights = "model.safetensors"
    rounded, shipped = tmp_path / "codec" / weights, tmp_path / "model/codec" / weights
    assert rounded.read_bytes() == shipped.read_bytes()
    assert list((tmp_path / "report").glob("*.md"))
    assert set(steps(run(tmp_path).stdout).values()) == {"done before"}
