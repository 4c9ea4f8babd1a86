"""Many prompts, a folder with a manifest, the standard output, JSON: what scripts build on."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli import main
from lm_audio.cli.outputs import MANIFEST, read_manifest
from lm_audio.origin import origin_comment, read_origin

Fails = Callable[[list[str]], str]


def run(*arguments: object, model: Path) -> None:
    main([*map(str, arguments), "--duration", "0.2", "--model", str(model), "--device", "cpu"])


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a dog\n\nrain\n  a dog  \n")
    return path


def test_each_line_of_a_file_becomes_the_clips_it_becomes_alone(
    model_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    some = ("--prompts", prompts, "--seed", 3, "--num-clips", 2, "--batch-size", 4)
    run("generate", *some, "-o", f"{folder}/", model=model_folder)
    names = ["a-dog-3", "a-dog-4", "rain-3", "rain-4", "a-dog-3-2", "a-dog-4-2"]
    assert {path.name for path in folder.iterdir()} == {*(f"{n}.wav" for n in names), MANIFEST}
    run("generate", "rain", "--seed", 4, "-o", tmp_path / "alone.wav", model=model_folder)
    assert (folder / "rain-4.wav").read_bytes() == (tmp_path / "alone.wav").read_bytes()
    rows = read_manifest(folder)
    assert list(rows) == [f"{name}.wav" for name in names]
    row = rows["a-dog-4-2.wav"]
    assert (row["prompt"], row["seed"], row["duration"]) == ("a dog", 4, 0.2)
    assert (row["model"], row["lm-audio"]) == (str(model_folder), lm_audio.__version__)


def test_a_run_that_was_stopped_makes_only_what_is_missing(
    model_folder: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    asked = ("generate", "--prompts", prompts, "--seed", 3, "-o", f"{folder}/")
    run(*asked, model=model_folder)
    whole = {path.name: path.read_bytes() for path in folder.glob("*.wav")}
    kept = folder / "rain-3.wav"
    made_at = kept.stat().st_mtime_ns
    (folder / "a-dog-3.wav").unlink()
    manifest = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(manifest[:-20])  # as of a run that was killed
    capsys.readouterr()
    run(*asked, model=model_folder)
    written = [line for line in capsys.readouterr().out.splitlines() if "seed 3" in line]
    assert [Path(line.split(": ")[0]).name for line in written] == ["a-dog-3.wav", "a-dog-3-2.wav"]
    assert {path.name: path.read_bytes() for path in folder.glob("*.wav")} == whole
    assert kept.stat().st_mtime_ns == made_at
    run(*asked, model=model_folder)
    assert capsys.readouterr().out == f"All 3 clips are in {folder} already.\n"


def test_prompts_come_from_the_standard_input(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("rain\na dog\n"))
    run("generate", "--prompts", "-", "--seed", 1, "-o", f"{tmp_path}/", model=model_folder)
    assert {path.name for path in tmp_path.glob("*.wav")} == {"rain-1.wav", "a-dog-1.wav"}


def test_the_standard_output_takes_a_wav_and_nothing_else(
    model_folder: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run("generate", "rain", "--seed", 1, "-o", "-", model=model_folder)
    shown = capsysbinary.readouterr()
    run("generate", "rain", "--seed", 1, "-o", tmp_path / "rain.wav", model=model_folder)
    assert shown.out == (tmp_path / "rain.wav").read_bytes()
    assert b"made 0.20 s of sound" in shown.err


def test_json_tells_machines_what_was_made(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--seed", 5, "--num-clips", 2, "--temperature", 0.5, "--condition", "pitch=2")
    run("generate", "rain", *asked, "--json", "-o", tmp_path / "x.flac", model=model_folder)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(tmp_path / f"x-{n}.flac") for n in (5, 6)]
    expected = {"verb": "generate", "prompt": "rain", "seed": 6, "temperature": 0.5}
    assert expected.items() <= rows[1].items()
    assert rows[1]["condition"] == ["pitch=2"]
    continued = ("continue", tmp_path / "x-5.flac", "--json", "-o", tmp_path / "y.wav")
    run(*continued, model=model_folder)
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["verb"], row["audio"]) == ("continue", str(tmp_path / "x-5.flac"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rain", "--prompts", "PROMPTS"], "Got a prompt and --prompts; give one of them"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--prompts", "EMPTY"], "holds no prompt; give a file with one on each line"),
        (["--prompts", "BINARY"], "is not text; give a file with a prompt on each line"),
        (["--prompts", "PROMPTS", "-o", "x.wav"], "x.wav is for one prompt; give -o a folder"),
        (["rain", "--num-clips", "2", "-o", "-"], "The standard output takes one clip"),
        (["rain", "--batch-size", "0"], "Got --batch-size 0; use 1 or more"),
    ],
)
def test_what_cannot_be_done_is_told_before_a_model_is_loaded(
    arguments: list[str], message: str, prompts: Path, tmp_path: Path, fails_with: Fails
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    names = {"PROMPTS": prompts, "EMPTY": tmp_path / "empty.txt", "BINARY": tmp_path / "binary"}
    told = [str(names.get(argument, argument)) for argument in arguments]
    assert message in fails_with(["generate", *told, "--model", "/no/such/model"])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3"])
def test_a_file_tells_what_made_it(
    suffix: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"clip.{suffix}"
    run("generate", "a dog", "--seed", 7, "-o", path, model=model_folder)
    version = lm_audio.__version__
    assert read_origin(path) == {"lm-audio": version, "prompt": "a dog", "seed": 7}
    capsys.readouterr()
    main(["info", str(path)])
    shown = capsys.readouterr().out.splitlines()
    assert {"prompt      a dog", "seed        7"} <= set(shown)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_any_prompt_comes_back_and_a_long_one_is_cut(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    for prompt, kept in (("pluie d\u2019\u00e9t\u00e9", 1.0), ("\u96e8" * 3000, 0.08)):
        comment = origin_comment(prompt=prompt, seed=7, model="\u00fcber")
        write_audio(path, torch.zeros(1, 8_000), 8_000, comment=comment)
        origin = read_origin(path)
        assert origin["model"] == "\u00fcber"
        assert len(origin["prompt"]) >= kept * len(prompt)
        assert origin["prompt"] in (prompt, prompt[: len(origin["prompt"]) - 1] + "\u2026")


def test_a_file_of_others_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "plain.wav", torch.zeros(1, 800), 8_000, comment="[1]")
    assert audio_info(tmp_path / "plain.wav").comment == "[1]"
    assert read_origin(tmp_path / "plain.wav") == {}
    main(["info", str(tmp_path / "plain.wav")])
    assert capsys.readouterr().out == "sound       0.10 s, 8000 Hz mono\nmade by     not said\n"
    assert read_audio(tmp_path / "plain.wav").samples.shape == (1, 800)


def test_a_comment_that_a_format_would_lose_is_refused(tmp_path: Path) -> None:
    for comment in ("\u00e9", "x" * 2001):
        with pytest.raises(ValueError, match=r"must be ASCII and at most 2,000"):
            write_audio(tmp_path / "a.wav", torch.zeros(1, 800), 8_000, comment=comment)
    assert not (tmp_path / "a.wav").exists()
