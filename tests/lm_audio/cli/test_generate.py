"""generate, continue and inpaint, as they are typed."""

import _thread
import io
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio import pretrained
from lm_audio.cli import generate, main
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline

Fails = Callable[[list[str]], str]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> AudioPipeline:
    return lm_audio.load(model_folder, device="cpu")


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """Half a second of sound."""
    time = torch.arange(12_000) / 24_000
    write_audio(tmp_path / "prompt.wav", 0.3 * torch.sin(2764.6 * time)[None], 24_000)
    return tmp_path / "prompt.wav"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "clip.wav"


def run(verb: str, *arguments: object, model: Path) -> None:
    main([verb, *map(str, arguments), "--model", str(model), "--device", "cpu"])


def samples(path: Path) -> Tensor:
    return read_audio(path).samples


def as_written(clip: object, tmp_path: Path) -> Tensor:
    """The samples of a clip, as a file has them."""
    assert isinstance(clip, lm_audio.Clip)
    clip.save(tmp_path / "expected.wav")
    return samples(tmp_path / "expected.wav")


def test_the_same_seed_makes_the_clip_that_python_makes(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    run("generate", "a dog", "--duration", 0.5, "--seed", 7, "-o", out, model=model_folder)
    expected = as_written(model.generate("a dog", duration=0.5, seed=7), tmp_path)
    assert expected.shape == (1, 12_000)
    assert torch.equal(samples(out), expected)
    assert not torch.equal(
        expected, as_written(model.generate("rain", duration=0.5, seed=7), tmp_path)
    )


def test_a_story_is_the_one_of_python_and_can_be_repeated(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    told = ("--story", "0: a dog; 0.4: rain", "--duration", 0.8, "--seed", 7)
    run("generate", *told, "-o", out, model=model_folder)
    parts = [(0.0, "a dog"), (0.4, "rain")]
    for clip in (samples(out), as_written(model.generate(parts, duration=0.8, seed=7), tmp_path)):
        assert clip.shape == (1, 19_200)
        assert torch.equal(clip, samples(out))
    for path in (out, tmp_path / "expected.wav"):
        assert " --story '0: a dog; 0.4: rain'" in str(command(read_origin(path)))


def test_what_only_diffusion_models_can_do_is_refused_by_others(
    model_folder: Path, prompt: Path, fails_with: Fails
) -> None:
    options = ["--model", str(model_folder), "--device", "cpu"]
    assert "This model cannot vary audio." in fails_with(["vary", str(prompt), *options])
    assert "This model cannot make loops." in fails_with(["generate", "a dog", "--loop", *options])
    wrong = fails_with(["generate", "a dog", "--steps", "5", *options])
    assert "This model has no steps setting. It has: guidance_scale," in wrong
    assert 'written as "0: calm piano; 15: a storm' in fails_with(
        ["generate", "--story", "x", *options]
    )
    both = fails_with(["generate", "a dog", "--story", "0: rain", *options])
    assert "PROMPT and --story cannot be combined." in both
    for blend, message in (
        ("x", 'A blend is written as "3: rain; 1: wind" (its weight, a colon and'),
        ("1: rain; 2: rain", "The prompts of a blend must differ, got 'rain' twice."),
        ("1: rain; 2: wind", "follows one prompt at a time"),
    ):
        assert message in fails_with(["generate", "--blend", blend, *options])


def test_a_clip_is_named_for_its_prompt_and_the_seed_that_repeats_it(
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run("generate", "a dog", "--duration", 0.1, model=model_folder)
    shown = capsys.readouterr().out.splitlines()[1]
    seed = shown.split()[-1]
    assert shown == f"out/a-dog-{seed}.wav: 0.10 s at 24000 Hz, seed {seed}"
    first = Path(f"out/a-dog-{seed}.wav")
    run("generate", "a dog", "--duration", 0.1, "--seed", seed, "-o", "b.wav", model=model_folder)
    assert Path("b.wav").read_bytes() == first.read_bytes()


def test_several_clips_have_seeds_in_a_row_and_each_is_as_it_is_alone(
    model: AudioPipeline, model_folder: Path, tmp_path: Path
) -> None:
    options = ["--duration", 0.2, "--seed", 5, "--num-clips", 3, "-o", tmp_path / "x.flac"]
    run("generate", "rain", *options, model=model_folder)
    assert sorted(path.name for path in tmp_path.glob("*.flac")) == [
        "x-5.flac", "x-6.flac", "x-7.flac",
    ]  # fmt: skip
    alone = as_written(model.generate("rain", duration=0.2, seed=6), tmp_path)
    assert torch.equal(samples(tmp_path / "x-6.flac"), alone)


@pytest.mark.parametrize("prompt", [[], [""], [" \n"]])
def test_no_prompt_or_a_blank_one_is_unconditional(
    prompt: list[str], model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    run("generate", *prompt, "--duration", 0.2, "--seed", 1, "-o", out, model=model_folder)
    expected = as_written(model.generate(None, duration=0.2, seed=1), tmp_path)
    assert torch.equal(samples(out), expected)


def test_sampling_options_change_only_what_is_given(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    options = ["--duration", 0.4, "--seed", 1, "--guidance-scale", 1.5, "--min-p", 0.01, "-o", out]
    run("generate", "a dog", *options, model=model_folder)
    stated = model.stages["acoustic"].sampling
    assert stated.top_k == 20
    sampling = replace(stated, guidance_scale=1.5, min_p=0.01)
    made = model.generate("a dog", duration=0.4, seed=1, sampling=sampling)
    assert torch.equal(samples(out), as_written(made, tmp_path))
    others = replace(lm_audio.Sampling(), guidance_scale=1.5, min_p=0.01)
    made = model.generate("a dog", duration=0.4, seed=1, sampling=others)
    assert not torch.equal(samples(out), as_written(made, tmp_path))


def test_raw_keeps_the_level_that_the_model_made(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    options = ["--duration", 0.4, "--seed", 1, "-o", out]
    run("generate", "a dog", *options, "--raw", model=model_folder)
    raw, mastered = (
        model.generate("a dog", duration=0.4, seed=1, raw=raw) for raw in (True, False)
    )
    assert torch.equal(samples(out), as_written(raw, tmp_path))
    assert not torch.equal(samples(out), as_written(mastered, tmp_path))
    assert "--raw" in str(command(read_origin(out)))


def test_conditions_are_numbers_where_the_model_takes_numbers(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    conditions = ["--condition", "kind=7", "--condition", "pitch=7"]
    common = ["--duration", 0.2, "--seed", 1, "--negative", "rain"]
    run("generate", "a dog", *common, *conditions, "-o", out, model=model_folder)
    made = model.generate(
        "a dog", duration=0.2, seed=1, negative="rain", conditions={"kind": "7", "pitch": 7.0}
    )
    assert torch.equal(samples(out), as_written(made, tmp_path))


def test_a_continuation_begins_with_the_prompt(
    model: AudioPipeline, model_folder: Path, prompt: Path, out: Path, tmp_path: Path
) -> None:
    options = ["--duration", 0.3, "--text", "rain", "--seed", 2, "-o", out]
    run("continue", prompt, *options, model=model_folder)
    assert samples(out).shape == (1, 12_000 + 7_200)
    assert torch.equal(samples(out)[:, :12_000], samples(prompt))
    made = model.continue_from(prompt, duration=0.3, text="rain", seed=2)
    assert torch.equal(samples(out), as_written(made, tmp_path))


def test_a_prompt_of_another_format_is_converted_with_a_notice(
    model_folder: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stereo = tmp_path / "stereo.wav"
    write_audio(stereo, 0.1 * torch.ones(2, 48_000), 96_000)
    run("continue", stereo, "--duration", 0.1, "-o", out, model=model_folder)
    notice = f"{stereo}: converted from 96000 Hz stereo to 24000 Hz mono\n"
    assert notice in capsys.readouterr().out
    run("continue", out, "--duration", 0.1, "-o", tmp_path / "b.wav", model=model_folder)
    assert "converted" not in capsys.readouterr().out


def test_audio_is_read_from_stdin(
    model_folder: Path, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = ("--start", 0.2, "--end", 0.3)
    for verb, options in (("continue", ("--duration", 0.1)), ("inpaint", span)):
        common = (*options, "--seed", 1, "-o")
        run(verb, prompt, *common, tmp_path / "file.wav", model=model_folder)
        piped = io.TextIOWrapper(io.BytesIO(prompt.read_bytes()))
        monkeypatch.setattr(sys, "stdin", piped)
        run(verb, "-", *common, tmp_path / "stdin.wav", model=model_folder)
        assert torch.equal(samples(tmp_path / "stdin.wav"), samples(tmp_path / "file.wav"))


def test_a_truncated_prompt_is_used_as_far_as_it_goes(
    model_folder: Path, prompt: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = prompt.with_name("cut.wav")
    cut.write_bytes(prompt.read_bytes()[:-12_000])
    run("continue", cut, "--duration", 0.1, "-o", out, model=model_folder)
    warning = f"lm-audio: warning: {cut} is truncated; using the 0.25 s that are left.\n"
    assert warning in capsys.readouterr().err
    assert samples(out).shape == (1, 6_000 + 2_400)


def test_inpainting_keeps_what_is_around_the_span(
    model_folder: Path, prompt: Path, out: Path
) -> None:
    options = ["--start", 0.2, "--end", 0.3, "--seed", 2, "--num-candidates", 2, "-o", out]
    run("inpaint", prompt, *options, model=model_folder)
    changed = (samples(out) != samples(prompt))[0].nonzero()
    assert samples(out).shape == (1, 12_000)
    assert 4_800 <= int(changed.min()) < int(changed.max()) < 7_200


def test_progress_goes_to_stderr_and_results_to_stdout(
    model_folder: Path,
    prompt: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("generate", "rain", "--duration", 0.3, "-o", out, model=model_folder)
    shown = capsys.readouterr()
    assert shown.err == ""  # no terminal, no bar
    loaded, written, made = shown.out.splitlines()
    assert re.fullmatch(rf"Loaded {model_folder} \(\d+ parameters, float32\) in \d+\.\d s", loaded)
    assert re.fullmatch(
        r"Generated 0\.30 s of audio in \d+\.\d s \(real-time factor \d+\.\d\d\)", made
    )
    assert written.startswith(f"{out}: 0.30 s at 24000 Hz")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("continue", prompt, "--duration", 0.1, "-o", out, model=model_folder)
    assert "continuing: 100%" in capsys.readouterr().err
    span = ["--start", 0.1, "--end", 0.2]
    run("inpaint", prompt, *span, "-o", out, model=model_folder)
    assert "inpainting: 100%" in capsys.readouterr().err


def test_quiet_prints_nothing(
    model_folder: Path,
    prompt: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("generate", "rain", "--duration", 0.1, "-o", out, "-q", model=model_folder)
    run("continue", prompt, "--duration", 0.1, "-o", out, "--quiet", model=model_folder)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert samples(out).shape == (1, 14_400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--condition", "voice=me"],
            "This model has no condition 'voice'. It accepts: kind, pitch, text",
        ),
        (["--condition", "kind=loud"], "Unknown label 'loud'"),
        (["--condition", "pitch=high"], "--condition pitch takes a number; got 'high'"),
        (["--condition", "pitch"], "--condition takes NAME=VALUE; got 'pitch'"),
        (["--condition", "text=rain"], "--condition cannot set the text"),
        (["--condition", "pitch=1", "--condition", "pitch=2"], "--condition pitch was given twice"),
        (["--device", "gpu"], "Device 'gpu' is not available here. Available: cpu"),
        (["--text-encoder", "t5-base"], "text_encoder has no effect"),
        (
            ["-o", "clip.xyz"],
            "clip.xyz does not end in a supported audio extension; use one of .flac",
        ),
    ],
)
def test_a_wrong_option_of_generate_gets_one_line_and_leaves_no_file(
    options: list[str],
    message: str,
    model_folder: Path,
    tmp_path: Path,
    fails_with: Fails,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["generate", "a dog", "--model", str(model_folder), "--duration", "0.1", *options]
    assert message in fails_with(arguments)
    assert list(tmp_path.iterdir()) == []


def test_audio_is_checked_before_the_model_is_loaded(
    tmp_path: Path, prompt: Path, fails_with: Fails
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    nowhere = ["--model", str(tmp_path / "nowhere")]
    span = ["--start", "0", "--end", "1"]
    for verb, options in (("continue", []), ("inpaint", span)):
        missing = [verb, str(tmp_path / "missing.wav"), *options, *nowhere]
        assert "No such file: " in fails_with(missing)
        unreadable = [verb, str(tmp_path / "text.wav"), *options, *nowhere]
        assert "is not an audio file" in fails_with(unreadable)
        itself = [verb, str(prompt), *options, *nowhere, "-o", str(prompt)]
        if verb == "continue":
            assert "is the input. Choose another output with -o, or add" in fails_with(itself)
    late = ["inpaint", str(prompt), "--start", "0", "--end", "2", *nowhere]
    assert "The span from 0 to 2 s is not within the 0.50 s of" in fails_with(late)
    early = ["inpaint", str(prompt), "--start", "0.4", "--end", "0.3", *nowhere]
    assert "--end must be greater than --start; got 0.3 and 0.4." in fails_with(early)
    assert "No such file or folder: " in fails_with(["continue", str(prompt), *nowhere])


def test_an_input_is_replaced_only_with_overwrite(
    model_folder: Path, prompt: Path, tmp_path: Path
) -> None:
    (tmp_path / "link.wav").symlink_to(prompt)
    before = prompt.read_bytes()
    with pytest.raises(SystemExit):
        run("continue", prompt, "--duration", 0.1, "-o", tmp_path / "link.wav", model=model_folder)
    assert prompt.read_bytes() == before
    run("continue", prompt, "--duration", 0.1, "-o", prompt, "--overwrite", model=model_folder)
    assert samples(prompt).shape == (1, 14_400)


def test_an_output_that_cannot_be_written_gets_one_line(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    common = ["generate", "rain", "--duration", "0.1", "--model"]
    blocked = [*common, str(model_folder), "-o", str(tmp_path / "file/clip.wav")]
    with pytest.raises(SystemExit) as stopped:
        main(blocked)
    assert stopped.value.code == 2
    assert not list(tmp_path.rglob("*clip*"))


def test_without_a_model_one_is_asked_for(
    fails_with: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "DEFAULT_FOLDER", tmp_path)
    assert "has no bundled model. Give a folder, a hub id" in fails_with(["generate", "a dog"])


@pytest.fixture
def can_be_interrupted() -> Iterator[None]:
    """What a shell starts in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("can_be_interrupted")
def test_stopping_leaves_no_file_and_status_130(
    model_folder: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = generate._load

    def loads_then_stops(*arguments: Any) -> AudioPipeline:
        model = load(*arguments)
        threading.Timer(0.5, _thread.interrupt_main).start()
        return model

    monkeypatch.setattr(generate, "_load", loads_then_stops)
    with pytest.raises(SystemExit) as stopped:
        run("generate", "rain", "--duration", 600, "-o", out, model=model_folder)
    assert stopped.value.code == 130
    assert "lm-audio: interrupted; no partial files were left behind." in capsys.readouterr().err
    assert not out.exists()


def test_pictures_are_drawn_beside_the_clips(
    model_folder: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    asked = ("generate", "a dog", "--duration", 0.2, "--seed", 7, "-o", out)
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".jpg", b"\xff\xd8")):
        picture = tmp_path / f"pictures/dog{suffix}"
        run(*asked, "--plot", picture, model=model_folder)
        assert picture.read_bytes().startswith(start)
        assert f"{picture}: picture of {out}\n" in capsys.readouterr().out
    run(*asked, "--num-clips", 2, "--plot", tmp_path / "dogs.png", model=model_folder)
    assert {path.name for path in tmp_path.glob("dogs*.png")} == {"dogs-7.png", "dogs-8.png"}


def test_clips_are_played_when_they_are_written(
    model_folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[int] = []

    def play(clip: lm_audio.Clip) -> None:
        assert out.with_stem("clip-8").is_file()
        played.append(clip.seed)

    monkeypatch.setattr("lm_audio.clip.find_player", lambda: "aplay")
    monkeypatch.setattr(lm_audio.Clip, "play", play)
    asked = ("--duration", 0.1, "--seed", 7, "--num-clips", 2, "-o", out, "--play")
    run("generate", "a dog", *asked, model=model_folder)
    assert played == [7, 8]


def test_clips_are_marked_before_they_are_written(
    model_folder: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silencing:
        def marked(self, clip: lm_audio.Clip) -> lm_audio.Clip:
            return replace(clip, samples=torch.zeros_like(clip.samples))

    monkeypatch.setattr("lm_audio.watermark.Watermark.load", lambda _: Silencing())
    folder = tmp_path / "marked"
    asked = ("generate", "a dog", "--duration", 0.2, "--seed", 7)
    run(*asked, "-o", f"{folder}/", "--watermark", "silence", model=model_folder)
    (row,) = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert row["watermark"] == "silence"
    assert not read_audio(folder / row["file"]).samples.any()
    run(*asked, "-o", out, model=model_folder)
    assert read_audio(out).samples.any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plot", "dog.tiff"], "Cannot plot to dog.tiff. Use one of the suffixes .png"),
        (["--play"], "Found no program that plays sound"),
        (["--watermark", "no-such.pth"], "No such file: no-such.pth"),
    ],
)
def test_what_cannot_be_shown_is_told_before_anything_is_made(
    options: list[str], said: str, fails_with: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_audio.clip.PLAYERS", {})
    assert said in fails_with(["generate", "a dog", "--model", "/no/such/folder", *options])
