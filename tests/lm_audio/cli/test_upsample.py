"""Raising the sample rate of a sound from the command line."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.cli import main
from lm_audio.origin import command, read_origin
from lm_audio.saving.folder import save_model

FAMILY = Path(__file__).parents[1] / "families/noise2music/conftest.py"
ROOT = Path(__file__).parents[3]
OPTIONS = ["--seed", "5", "--steps", "2", "--solver", "ddim"]
SAMPLING = lm_audio.Denoising(steps=2, solver="ddim", guidance_scale=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = importlib.util.spec_from_file_location("noise2music_models", FAMILY)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("cascade") / "model"
    save_model(module.cascade(module.small_stages()), path)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    samples = 0.1 * torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    write_audio(tmp_path / "in.wav", samples, 4_000, encoding="float")
    return tmp_path / "in.wav"


def test_it_writes_what_python_makes(
    folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outs = [recording.with_name(f"{name}.wav") for name in ("line", "python", "again")]
    options = [*OPTIONS, "--noise-level", "0.2", "--model", str(folder), "--json"]
    main(["upsample", str(recording), *options, "-o", str(outs[0])])
    printed = capsys.readouterr()
    model = lm_audio.load(folder)
    clip = model.upsample(recording, seed=5, noise_level=0.2, sampling=SAMPLING)
    clip.save(outs[1])
    line, python = (read_audio(path) for path in outs[:2])
    assert (line.sample_rate, line.samples.shape) == (6_000, (2, 600))
    assert torch.equal(line.samples, python.samples)
    row = json.loads(printed.out)
    assert row == {"file": str(outs[0]), **clip.settings}
    assert "0.10 s at 6000 Hz, seed 5" in printed.err
    words = command(read_origin(outs[0]))
    assert words is not None
    assert words.startswith(f"lm-audio upsample {recording}")
    main([*words.split()[1:], "-o", str(outs[2]), "-q"])
    assert torch.equal(read_audio(outs[2]).samples, line.samples)
    assert capsys.readouterr().out == ""


def test_sound_is_piped(folder: Path, recording: Path) -> None:
    samples = read_audio(recording).samples
    given = wav_header(4_000, 2) + pcm16(samples)
    options = [*OPTIONS, "--model", str(folder), "-o", "-"]
    run = subprocess.run(
        [sys.executable, "-m", "lm_audio", "upsample", "-", *options],
        input=given,
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tokenizers")])},
    )
    assert len(run.stdout) == len(wav_header(6_000, 2)) + 600 * 2 * 2
    assert b"-: 0.10 s at 6000 Hz, seed 5" in run.stderr


def test_mistakes_get_one_line(
    folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = ["--model", str(folder)], ["-o", str(recording.with_name("out.wav"))]
    for arguments, sentence in (
        ([str(recording), *model, "-o", str(recording)], "is the input. Choose another output"),
        ([str(recording), *model, "-o", "out.xyz"], "does not end in a supported audio extension"),
        (["none.wav", *model, *out], "No such file"),
        ([str(recording), *model, *out, "--from-rate", "2000"], "Choose one of: 1000, 4000"),
        ([str(recording), *model, *out, "--text", "rain"], "no condition 'text'"),
        ([str(recording), *model, *out, "--noise-level", "0.7"], "a noise level from 0 to 0.5"),
        ([str(recording), *out], "does not raise the sample rate of sound"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["upsample", *arguments])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.count("\n") == 1
    assert not recording.with_name("out.wav").exists()
