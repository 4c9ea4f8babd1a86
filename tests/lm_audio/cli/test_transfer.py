"""Playing a sound through a codec's latents from the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audio_tokenizers.acoustic.latent_edits import LatentEdits, parse_edits
from audio_tokenizers.acoustic.rave import RaveCodec, save_rave, tiny
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.coding import transfer
from audio_tokenizers.resampling import resample
from audio_tokenizers.wav_stream import pcm16, wav_header
from lm_audio.cli import main


@pytest.fixture(scope="module")
def codec() -> RaveCodec:
    torch.manual_seed(0)
    return RaveCodec(tiny(), trainable=False).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(codec: RaveCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rave")
    save_rave(codec, path)
    return path


@pytest.fixture(scope="module")
def dac(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import DacConfig, DacModel

    path = tmp_path_factory.mktemp("dac")
    settings = DacConfig(encoder_hidden_size=2, decoder_hidden_size=32, n_codebooks=2)
    DacModel(settings).save_pretrained(path)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    samples = 0.2 * torch.randn(1, 20_011, generator=torch.Generator().manual_seed(0))
    write_audio(tmp_path / "in.wav", samples, 8_000, encoding="float")
    return tmp_path / "in.wav"


def test_a_file_is_played_as_whole_calls_play_it(
    codec: RaveCodec, folder: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recording.with_name("out.wav")
    main(["transfer", str(recording), "--codec", str(folder), "-o", str(out)])
    samples = read_audio(recording).samples[None]
    wanted = codec.decode_latents(codec.latents(samples), num_samples=20_011)[0].clamp(-1, 1)
    found = read_audio(out)
    assert (found.sample_rate, found.samples.shape) == (8_000, (1, 20_011))
    torch.testing.assert_close(found.samples, wanted, rtol=0, atol=1e-4)
    assert capsys.readouterr().out == f"{out}: 2.50 s at 8000 Hz\n"


def test_latents_are_changed_over_time(codec: RaveCodec, folder: Path, recording: Path) -> None:
    out, text = recording.with_name("out.wav"), "0:+3@1,0:-3@2,1:*0.5"
    main(["transfer", str(recording), "--codec", str(folder), "-o", str(out), "--latent", text])
    edits = LatentEdits(parse_edits(text), frame_rate=codec.frame_rate, latent_size=8)
    latents = codec.latents(read_audio(recording).samples[None])
    wanted = codec.decode_latents(edits(latents, 0), num_samples=20_011)[0].clamp(-1, 1)
    plain = codec.decode_latents(latents, num_samples=20_011)[0].clamp(-1, 1)
    torch.testing.assert_close(read_audio(out).samples, wanted, rtol=0, atol=1e-4)
    assert (wanted - plain).abs().max() > 0.01


def test_any_codec_with_latents_plays(recording: Path) -> None:
    out = recording.with_name("out.wav")
    main(["transfer", str(recording), "--codec", "default", "-o", str(out), "--latent", "0:*0.9"])
    found = read_audio(out)
    assert (found.sample_rate, found.samples.shape) == (24_000, (1, 60_033))
    assert found.samples.abs().max() > 0.01


def test_pieces_change_nothing_and_channels_are_mixed(codec: RaveCodec) -> None:
    samples = 0.2 * torch.randn(2, 9_001)
    mono = samples.mean(0, keepdim=True)
    wanted = codec.decode_latents(codec.latents(mono[None]), num_samples=9_001)[0]
    for size in (1_000, 9_001, 77):
        found = torch.cat(list(transfer(samples.split(size, dim=1), codec)), dim=1)
        assert torch.equal(found, wanted)
    assert list(transfer([], codec)) == []


def test_a_pipe_is_played_while_it_runs(codec: RaveCodec, folder: Path) -> None:
    """The first samples come out before the input ends."""
    command = [sys.executable, "-m", "lm_audio", "transfer", "-", "--codec", str(folder), "-o", "-"]
    samples = 0.2 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(wav_header(8_000, 1) + pcm16(samples[:, :20_480]))
        process.stdin.flush()
        early = process.stdout.read(44 + 2 * 4_096)
        process.stdin.write(pcm16(samples[:, 20_480:]))
        process.stdin.close()
        played = early + process.stdout.read()
        assert process.stderr is not None
        assert process.stderr.read().decode() == "-: 5.00 s at 8000 Hz\n"
    as_read = (samples * 2**15).round().clamp(-(2**15), 2**15 - 1) / 2**15
    wanted = codec.decode_latents(codec.latents(as_read[None]), num_samples=40_000)[0]
    assert played[44:] == pcm16(wanted)


def test_other_formats_are_read_from_stdin_and_resampled(
    codec: RaveCodec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = 0.2 * torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0))
    write_audio(tmp_path / "in.flac", samples, 16_000)
    with (tmp_path / "in.flac").open(encoding="latin1") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        main(["transfer", "-", "--codec", str(folder), "-o", str(tmp_path / "out.wav"), "-q"])
    heard = resample(read_audio(tmp_path / "in.flac").samples, 16_000, 8_000)
    wanted = codec.decode_latents(codec.latents(heard[None]), num_samples=16_000)[0].clamp(-1, 1)
    found = read_audio(tmp_path / "out.wav").samples
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)  # resampled in pieces


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--codec", "DAC", "-o", "x.wav"], "has tokens but no latents. Use a RAVE model"),
        (["--codec", "FOLDER", "-o", "in.wav"], "in.wav is the input. Choose another output"),
        (["--codec", "FOLDER", "-o", "x.txt"], "x.txt does not end in a supported audio"),
        (["--codec", "FOLDER", "-o", "x.wav", "--latent", "0"], "'0' is not a change of a latent"),
        (
            ["--codec", "FOLDER", "-o", "x.wav", "--latent", "9:+1"],
            "There is no latent dimens",
        ),
        (["-o", "x.wav"], "Missing --codec"),
    ],
)
def test_mistakes_get_one_line_and_leave_no_file(
    folder: Path,
    dac: Path,
    recording: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(recording.parent)
    folders = {"FOLDER": str(folder), "DAC": str(dac)}
    given = [folders.get(word, word) for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        main(["transfer", "in.wav", *given])
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in recording.parent.iterdir()] == ["in.wav"]
