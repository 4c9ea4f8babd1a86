"""generate, continue and inpaint, as they are typed."""

import _thread
import json
import re
import signal
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


def test_no_prompt_is_unconditional(
    model: AudioPipeline, model_folder: Path, out: Path, tmp_path: Path
) -> None:
    run("generate", "--duration", 0.2, "--seed", 1, "-o", out, model=model_folder)
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


def test_inpainting_keeps_what_is_around_the_span(
    model_folder: Path, prompt: Path, out: Path
) -> None:
    options = ["--start", 0.2, "--end", 0.3, "--seed", 2, "--num-candidates", 2, "-o", out]
    run("inpaint", prompt, *options, model=model_folder)
    changed = (samples(out) != samples(prompt))[0].nonzero()
    assert samples(out).shape == (1, 12_000)
    assert 4_800 <= int(changed.min()) < int(changed.max()) < 7_200


def test_progress_goes_to_stderr_and_results_to_stdout(
    model_folder: Path, prompt: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("generate", "rain", "--duration", 0.3, "-o", out, model=model_folder)
    shown = capsys.readouterr()
    assert "generating: 100%" in shown.err
    loaded, written, made = shown.out.splitlines()
    assert re.fullmatch(rf"loaded {model_folder}: \d+ parameters in \d+\.\d s", loaded)
    assert re.fullmatch(
        r"made 0\.30 s of sound in \d+\.\d s: a real-time factor of \d+\.\d\d", made
    )
    assert written.startswith(f"{out}: 0.30 s at 24000 Hz")
    run("continue", prompt, "--duration", 0.1, "-o", out, model=model_folder)
    assert "continuing: 100%" in capsys.readouterr().err
    span = ["--start", 0.1, "--end", 0.2]
    run("inpaint", prompt, *span, "-o", out, model=model_folder)
    assert "inpainting: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--duration", "0"], "duration must be above 0"),
        (["--duration", "1e9"], "at most 86400 seconds, got 1000000000.0"),
        (["--num-clips", "0"], "Got --num-clips 0; use 1 or more"),
        (["--seed", "-1"], "seed must be an integer of at least 0, got -1"),
        (["--temperature", "-1"], "temperature must be a number from 0 to 1e+06, got -1"),
        (
            ["--condition", "voice=me"],
            "This model does not accept voice. It accepts: kind, pitch, text",
        ),
        (["--condition", "kind=loud"], "Unknown label 'loud'"),
        (["--condition", "pitch=high"], "Got --condition pitch=high; the model takes a number"),
        (["--condition", "pitch"], "give NAME=VALUE"),
        (["--condition", "text=rain"], "the text apart"),
        (["--condition", "pitch=1", "--condition", "pitch=2"], "each name once"),
        (["--dtype", "int4"], "Unknown dtype 'int4'"),
        (["--device", "gpu"], "Device 'gpu' is not available"),
        (["--text-encoder", "t5-base"], "text_encoder has no effect"),
        (["-o", "clip.xyz"], "clip.xyz does not end in a known suffix"),
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


def test_what_is_wrong_with_the_audio_is_told_before_the_model_is_loaded(
    tmp_path: Path, prompt: Path, fails_with: Fails
) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    nowhere = ["--model", str(tmp_path / "nowhere")]
    span = ["--start", "0", "--end", "1"]
    for verb, options in (("continue", []), ("inpaint", span)):
        missing = [verb, str(tmp_path / "missing.wav"), *options, *nowhere]
        assert "missing.wav does not exist" in fails_with(missing)
        unreadable = [verb, str(tmp_path / "text.wav"), *options, *nowhere]
        assert "is not audio that can be read" in fails_with(unreadable)
        assert "not found" in fails_with([verb, str(prompt), *options, *nowhere])


def test_a_span_outside_the_audio_is_refused(
    model_folder: Path, prompt: Path, out: Path, fails_with: Fails
) -> None:
    span = ["--start", "0.4", "--end", "2", "-o", str(out), "--model", str(model_folder)]
    assert "within the 0.50 s of the audio" in fails_with(["inpaint", str(prompt), *span])
    assert not out.exists()


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
    assert "Give a folder, a hub id" in fails_with(["generate", "a dog"])


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
    assert "stopped; nothing more was written" in capsys.readouterr().err
    assert not out.exists()


def test_pictures_are_drawn_beside_the_clips(model_folder: Path, out: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    asked = ("generate", "a dog", "--duration", 0.2, "--seed", 7, "-o", out)
    run(*asked, "--plot", tmp_path / "dog.png", model=model_folder)
    assert (tmp_path / "dog.png").read_bytes().startswith(b"\x89PNG")
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
        (["--play"], "No audio player found"),
        (["--watermark", "no-such.pth"], "File no-such.pth not found"),
    ],
)
def test_what_cannot_be_shown_is_told_before_anything_is_made(
    options: list[str], said: str, fails_with: Fails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_audio.clip.PLAYERS", {})
    assert said in fails_with(["generate", "a dog", "--model", "/no/such/folder", *options])
