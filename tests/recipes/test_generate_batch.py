"""generate_batch: each line of a file becomes the clip it becomes alone, whoever makes it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

import lm_audio

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recipe(load_recipe: Callable[[str], ModuleType]) -> ModuleType:
    return load_recipe("generate_batch")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("rain\n\n  a dog barking \nrain\n")
    return path


def clips(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.flac"))}


def test_each_line_is_a_clip_with_a_seed_of_its_own(
    recipe: ModuleType, prompts: Path, tmp_path: Path
) -> None:
    config = recipe.Config(
        prompts=prompts, out=tmp_path / "out", duration=0.2, batch_size=2, seed=5
    )
    assert recipe.main(config) == 3
    made = clips(tmp_path / "out/00000")
    assert list(made) == ["0000000.flac", "0000001.flac", "0000002.flac"]
    alone = lm_audio.load(device="cpu").generate("rain", duration=0.2, seed=7)
    assert made["0000002.flac"] == alone.encoded("flac")
    rows = [
        json.loads(line)
        for path in sorted((tmp_path / "out").rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [(row["file"], row["prompt"], row["seed"]) for row in rows] == [
        ("0000000.flac", "rain", 5),
        ("0000001.flac", "a dog barking", 6),
        ("0000002.flac", "rain", 7),
    ]
    assert rows[0]["model"] == "default"


def test_a_run_that_was_stopped_goes_on(recipe: ModuleType, prompts: Path, tmp_path: Path) -> None:
    config = recipe.Config(prompts=prompts, out=tmp_path / "out", duration=0.2, batch_size=1)
    recipe.main(config)
    folder = tmp_path / "out/00000"
    whole = clips(folder)
    (folder / "0000001.jsonl").unlink()
    (folder / "0000001.flac").write_bytes(b"half a f")
    kept = (folder / "0000002.flac").stat().st_mtime_ns
    recipe.main(config)
    assert clips(folder) == whole
    assert (folder / "0000002.flac").stat().st_mtime_ns == kept


@pytest.mark.parametrize(("field", "value"), [("seed", 1), ("duration", 0.3), ("format", "wav")])
def test_a_folder_of_other_settings_is_refused(
    recipe: ModuleType, prompts: Path, tmp_path: Path, field: str, value: object
) -> None:
    config = recipe.Config(prompts=prompts, out=tmp_path / "out", duration=0.2)
    recipe.claim_folder(config, ["rain"])
    with pytest.raises(ValueError, match=rf"has clips with different settings \({field}\); choose"):
        recipe.claim_folder(replace(config, **{field: value}), ["rain"])
    with pytest.raises(ValueError, match=r"has clips with different settings \(prompts\)"):
        recipe.claim_folder(config, ["wind"])


def test_what_cannot_be_done_is_told(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match="has no prompts; expected one per line"):
        recipe.main(recipe.Config(prompts=tmp_path / "empty.txt", out=tmp_path))
    with pytest.raises(
        ValueError, match="--batch-size must be a divisor of 1,000, such as 20, got 7"
    ):
        recipe.main(recipe.Config(out=tmp_path, batch_size=7))


@pytest.mark.slow
def test_a_ray_cluster_makes_the_same_clips(
    recipe: ModuleType, prompts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray.data")
    config = recipe.Config(prompts=prompts, out=tmp_path / "here", duration=0.2, batch_size=1)
    recipe.main(config)
    command = [sys.executable, "recipes/generate_batch.py", "--prompts", str(prompts)]
    command += ["--out", str(tmp_path / "ray"), "--duration", "0.2", "--batch-size", "1"]
    command += ["--engine", "ray", "--num-workers", "2", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ": 3 clips, " in done.stdout
    assert clips(tmp_path / "ray") == clips(tmp_path / "here")
