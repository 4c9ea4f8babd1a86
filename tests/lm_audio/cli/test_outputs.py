"""Many prompts, a folder with a manifest, the standard output, JSON: what scripts build on."""

import io
import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli import main
from lm_audio.cli.arguments import parse
from lm_audio.cli.generate import Continue
from lm_audio.cli.manifest import NAME as MANIFEST
from lm_audio.cli.manifest import only_run, read_manifest
from lm_audio.cli.verbs import VERBS
from lm_audio.origin import command, origin_comment, read_origin

Fails = Callable[[list[str]], str]


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs file limits of POSIX")


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
    assert capsys.readouterr().out == (
        f"Nothing to do: {folder} already has 3 clips with these settings.\n"
    )


def test_a_run_without_a_seed_resumes_with_that_of_its_folder(
    model_folder: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    asked = ("generate", "--prompts", prompts, "--num-clips", 2, "-o", f"{folder}/")
    run(*asked, model=model_folder)
    whole = {path.name: path.read_bytes() for path in folder.glob("*.wav")}
    assert len(whole) == 6
    lines = (folder / MANIFEST).read_text().splitlines(keepends=True)
    for row in map(json.loads, lines[3:]):
        (folder / row["file"]).unlink()
    (folder / MANIFEST).write_text("".join(lines[:3]))  # as after Ctrl-C
    capsys.readouterr()
    run(*asked, model=model_folder)
    assert f"Resuming: 3 clips of 6 already in {folder}." in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in folder.glob("*.wav")} == whole
    assert (folder / MANIFEST).read_text().splitlines(keepends=True) == lines
    run(*asked, model=model_folder)
    assert "Nothing to do" in capsys.readouterr().out
    run(*asked, "--seed", row["seed"], "--num-clips", 1, "--top-k", 5, model=model_folder)
    rows = [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]
    assert len(rows) == len({row["file"] for row in rows}) == 6  # those made anew replace others
    assert [row.get("top_k") for row in rows].count(5) == 3
    run(*asked, "--temperature", 0.5, model=model_folder)  # other settings: new clips
    assert len(list(folder.glob("*.wav"))) == 12


def test_the_precision_that_auto_chose_is_listed(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    asked = ("generate", "rain", "--seed", 3, "--dtype", "auto", "-o", f"{folder}/")
    run(*asked, model=model_folder)
    loaded = lm_audio.load(model_folder, device="cpu", dtype="auto").dtype
    assert loaded != "auto"
    assert read_manifest(folder)["rain-3.wav"]["dtype"] == loaded
    assert read_origin(folder / "rain-3.wav")["dtype"] == loaded
    capsys.readouterr()
    run(*asked, model=model_folder)
    assert "Nothing to do" in capsys.readouterr().out


def test_two_runs_in_one_folder_at_once_are_refused(
    prompts: Path, tmp_path: Path, fails_with: Fails
) -> None:
    folder = tmp_path / "clips"
    again = ["generate", "--prompts", str(prompts), "-o", str(folder), "--model", "/no/such/model"]
    with only_run(folder):
        message = f"Another run is writing to {folder}. Wait for it, or choose another folder."
        assert message in fails_with(again)
    assert "No such file or folder: /no/such/model" in fails_with(again)
    assert list(folder.iterdir()) == []  # the lock leaves nothing


def test_lines_of_parallel_runs_do_not_mix(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from lm_audio.cli.manifest import add_to_manifest\n"
        "name = sys.argv[2]\n"
        "for i in range(200): add_to_manifest(Path(sys.argv[1]), f'{name}{i}', {'x': name * 999})"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    rows = read_manifest(tmp_path)
    assert len(rows) == 400
    assert all(row["x"] == name[0] * 999 for name, row in rows.items())


def test_prompts_come_from_the_standard_input(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("# weather\nrain\n# animals\na dog\n"))
    run("generate", "--prompts", "-", "--seed", 1, "-o", f"{tmp_path}/", model=model_folder)
    assert {path.name for path in tmp_path.glob("*.wav")} == {"rain-1.wav", "a-dog-1.wav"}


def test_the_standard_output_takes_a_wav_and_nothing_else(
    model_folder: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    run("generate", "rain", "--seed", 1, "-o", "-", model=model_folder)
    shown = capsysbinary.readouterr()
    run("generate", "rain", "--seed", 1, "-o", tmp_path / "rain.wav", model=model_folder)
    assert shown.out == (tmp_path / "rain.wav").read_bytes()
    assert b"Generated 0.20 s of audio" in shown.err
    capsysbinary.readouterr()
    run("generate", "rain", "--seed", 1, "-o", "-", "--json", model=model_folder)
    again = capsysbinary.readouterr()
    assert again.out == shown.out
    (row,) = [json.loads(line) for line in again.err.splitlines() if line.startswith(b"{")]
    assert (row["file"], row["prompt"]) == ("-", "rain")


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
        (["rain", "--prompts", "PROMPTS"], "PROMPT and --prompts cannot be combined"),
        (["--prompts", "nowhere.txt"], "No such file: nowhere.txt"),
        (["--prompts", "EMPTY"], "contains no prompts; put one on each line"),
        (["--prompts", "BINARY"], "is not UTF-8 text"),
        (
            ["--prompts", "PROMPTS", "-o", "x.wav"],
            "x.wav takes one prompt; for several, give -o a folder",
        ),
        (["rain", "--num-clips", "2", "-o", "-"], "stdout takes a single clip"),
        (["rain", "-o", ""], "-o is empty; give a file such as clip.wav, or a folder"),
        (["rain", "-o", ".wav"], ".wav is only a suffix; use a file name such as clip.wav"),
        (["rain", "-o", "clips.v2"], "clips.v2 does not end in a supported audio extension"),
        (["rain", "-o", "x.png", "--plot", "x.png"], "-o and --plot are the same file: x.png."),
        (["rain", "-o", "PROMPTS/x.wav"], "is not a folder"),
        (["rain", "-o", "/proc/x.wav"], "Cannot write to /proc: no such file or directory."),
        (["rain", "--plot", "/proc/x.png"], "Cannot write to /proc: no such file or directory."),
    ],
)
def test_outputs_are_checked_before_a_model_is_loaded(
    arguments: list[str], message: str, prompts: Path, tmp_path: Path, fails_with: Fails
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    names = {"PROMPTS": prompts, "EMPTY": tmp_path / "empty.txt", "BINARY": tmp_path / "binary"}
    given = [a.replace("PROMPTS/", f"{prompts}/") for a in arguments]
    given = [str(names.get(argument, argument)) for argument in given]
    if "--plot" in arguments:
        pytest.importorskip("matplotlib")
    assert message in fails_with(["generate", *given, "--model", "/no/such/model"])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus", "mp3", "png"])
def test_a_file_tells_what_made_it(
    suffix: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"clip.{suffix}"
    conditions = ("--condition", "pitch=2", "--condition", "kind=7")
    sampling = ("--guidance-scale", 5, "--temperature", 0.5)
    given = ("--seed", 7, "--negative", "rain", *sampling, *conditions)
    run("generate", "a dog", *given, "-o", path, model=model_folder)
    assert read_origin(path) == {
        "lm-audio": lm_audio.__version__,
        "verb": "generate",
        "prompt": "a dog",
        "seed": 7,
        "duration": 0.2,
        "negative": "rain",
        "condition": ["pitch=2", "kind=7"],
        "guidance_scale": 5.0,
        "temperature": 0.5,
        "model": str(model_folder),
        "device": "cpu",
        "dtype": "float32",
    }
    capsys.readouterr()
    main(["info", str(path)])
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (shown["prompt"], shown["condition"]) == ("a dog", "pitch=2, kind=7")
    again = tmp_path / f"again.{suffix}"
    main([*shlex.split(shown["command"])[1:], "-o", str(again)])
    assert torch.equal(read_audio(again).samples, read_audio(path).samples)


def test_a_command_quotes_what_starts_with_a_dash() -> None:
    origin = {"lm-audio": "1", "verb": "continue", "audio": "-in.wav", "text": "-rain", "seed": 1}
    origin |= {"model": "default"}
    expected = "lm-audio continue --text=-rain --seed 1 -- -in.wav"
    assert command(origin) == expected
    verb = parse(VERBS, shlex.split(expected)[1:], program="lm-audio", description="")
    assert isinstance(verb, Continue)
    assert (str(verb.audio), verb.text, verb.request.seed) == ("-in.wav", "-rain", 1)


def test_files_of_older_versions_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = '{"lm-audio": "0.1", "model": "lm-audio default", "prompt": "a dog", "seed": 7}'
    write_audio(tmp_path / "old.wav", torch.zeros(1, 800), 8_000, comment=old)
    main(["info", str(tmp_path / "old.wav")])
    shown = capsys.readouterr().out
    assert "made by  lm-audio 0.1\n" in shown
    assert "prompt   a dog\n" in shown
    assert "command" not in shown


def test_info_of_a_sound_needs_no_torch(model_folder: Path, tmp_path: Path) -> None:
    run("generate", "a dog", "--seed", 7, "-o", tmp_path / "a.wav", model=model_folder)
    code = (
        "import sys; from lm_audio.cli import main\n"
        "main(['info', sys.argv[1]]); main(['info']); main(['models'])\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "seed      7" in done.stdout


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_any_prompt_comes_back_and_a_long_one_is_cut(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{suffix}"
    for prompt, kept in (("pluie d\u2019\u00e9t\u00e9", 1.0), ("\u96e8" * 3000, 0.08)):
        settings = {"verb": "generate", "prompt": prompt, "seed": 7, "model": "\u00fcber"}
        comment = origin_comment(settings)
        write_audio(path, torch.zeros(1, 8_000), 8_000, comment=comment)
        origin = read_origin(path)
        assert origin["model"] == "\u00fcber"
        assert len(origin["prompt"]) >= kept * len(prompt)
        assert origin["prompt"] in (prompt, prompt[: len(origin["prompt"]) - 1] + "\u2026")
        assert (command(origin) is None) == (kept < 1)


def test_a_file_of_others_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_audio(tmp_path / "plain.wav", torch.zeros(1, 800), 8_000, comment="[1]")
    assert audio_info(tmp_path / "plain.wav").comment == "[1]"
    assert read_origin(tmp_path / "plain.wav") == {}
    main(["info", str(tmp_path / "plain.wav")])
    assert capsys.readouterr().out == "sound    0.10 s, 8000 Hz mono\nmade by  unknown\n"
    assert read_audio(tmp_path / "plain.wav").samples.shape == (1, 800)


def test_a_comment_that_a_format_would_lose_is_refused(tmp_path: Path) -> None:
    for comment in ("\u00e9", "x" * 2001):
        with pytest.raises(ValueError, match=r"must be ASCII and at most 2,000"):
            write_audio(tmp_path / "a.wav", torch.zeros(1, 800), 8_000, comment=comment)
    assert not (tmp_path / "a.wav").exists()


@posix
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "clips/"])
def test_a_full_disk_gets_one_line_and_leaves_nothing(
    name: str, model_folder: Path, tmp_path: Path
) -> None:
    code = (
        "import resource, signal, sys; from lm_audio.cli import main\n"
        "import lm_audio.cli.outputs as outputs\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "deliver = outputs.OutputOptions._deliver\n"
        "def limited(*given):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))\n"
        "    deliver(*given)\n"
        "outputs.OutputOptions._deliver = limited\n"
        "main(sys.argv[1:])"
    )
    where = tmp_path / "full"
    options = ["--model", str(model_folder), "--duration", "0.5", "-o", f"{where}/{name}"]
    command = [sys.executable, "-c", code, "generate", "a dog", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if "warning" not in one]
    assert line.startswith(f"lm-audio: Cannot write {where}/")
    assert not [path for path in where.rglob("*") if path.is_file()]


def test_a_new_name_without_a_suffix_is_a_folder(model_folder: Path, tmp_path: Path) -> None:
    run("generate", "rain", "--seed", 3, "-o", tmp_path / "clips", model=model_folder)
    assert {path.name for path in (tmp_path / "clips").iterdir()} == {"rain-3.wav", MANIFEST}
