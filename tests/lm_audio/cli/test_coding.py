"""The command line from the outside: what it writes, prints and returns."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from audio_tokenizers.acoustic.frame_codec import FrameCodec, save_frame_codec, tiny
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.token_file import EncodedAudio, load_encoded, save_encoded
from lm_audio import __version__
from lm_audio.cli import main
from lm_audio.data.synthetic import demo_clip
from lm_audio.picture import log_mels


@pytest.fixture
def codec_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    codec = FrameCodec(tiny())
    for layer in codec.quantizer.layers:
        layer._codebook.embed.normal_(std=0.3)
    save_frame_codec(codec, tmp_path / "codec")
    return tmp_path / "codec"


def fails_with(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    return shown


def test_encode_and_decode_give_a_file_of_the_same_length(
    codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(2, 24_123), 24_000)
    tokens, out = tmp_path / "t.safetensors", tmp_path / "out.flac"
    main(["encode", str(tmp_path / "in.wav"), "-o", str(tokens), "--codec", str(codec_folder)])
    assert load_encoded(tokens).tokens.shape == (4, 51)
    main(["decode", str(tokens), "-o", str(out)])
    info = audio_info(out)
    assert (info.num_samples, info.sample_rate) == (24_123, 24_000)
    assert "4 x 51 tokens" in capsys.readouterr().out


def test_fewer_codebooks_can_be_asked_for(codec_folder: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(1, 4_800), 24_000)
    tokens = tmp_path / "t.safetensors"
    arguments = ["--codec", str(codec_folder), "--num-codebooks", "2"]
    main(["encode", str(tmp_path / "in.wav"), "-o", str(tokens), *arguments])
    assert load_encoded(tokens).tokens.shape == (2, 10)


def test_audio_from_stdin_is_encoded_and_converted_with_a_notice(
    codec_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(2, 48_000), 48_000)
    common = ["--codec", str(codec_folder), "--cache", str(tmp_path / "cache"), "-o"]
    main(["encode", str(tmp_path / "in.wav"), *common, str(tmp_path / "file.safetensors")])
    notice = "converted from 48000 Hz stereo to 24000 Hz mono\n"
    assert f"{tmp_path}/in.wav: {notice}" in capsys.readouterr().out
    piped = io.TextIOWrapper(io.BytesIO((tmp_path / "in.wav").read_bytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    main(["encode", "-", *common, str(tmp_path / "stdin.safetensors")])
    assert f"stdin: {notice}" in capsys.readouterr().out
    file, stdin = (load_encoded(tmp_path / f"{n}.safetensors") for n in ("file", "stdin"))
    assert torch.equal(stdin.tokens, file.tokens)
    assert stdin.num_samples == 24_000


def test_a_cache_saves_encoding_a_file_again(
    codec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(1, 4_800), 24_000)
    options = ["--codec", str(codec_folder), "--cache", str(tmp_path / "cache")]
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    main(["encode", str(tmp_path / "in.wav"), "-o", str(first), *options])
    monkeypatch.setattr(FrameCodec, "encoder_stream", lambda *_, **__: pytest.fail("encoded again"))
    main(["encode", str(tmp_path / "in.wav"), "-o", str(second), *options])
    assert second.read_bytes() == first.read_bytes()


def test_long_audio_shows_progress_on_stderr(
    codec_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    write_audio(tmp_path / "in.wav", 0.1 * torch.randn(1, 24_000 * 25), 24_000)
    tokens = tmp_path / "t.safetensors"
    main(["encode", str(tmp_path / "in.wav"), "-o", str(tokens), "--codec", str(codec_folder)])
    assert "encoding: 100%" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    main(["encode", str(tmp_path / "in.wav"), "-o", str(tokens), "--codec", str(codec_folder)])
    assert "encoding" not in capsys.readouterr().err


def test_mistakes_get_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "t.safetensors")
    assert "No such file: none.wav" in fails_with(["encode", "none.wav", "-o", out], capsys)
    write_audio(tmp_path / "in.wav", torch.zeros(1, 480), 24_000)
    unknown = ["encode", str(tmp_path / "in.wav"), "-o", out, "--codec", str(tmp_path / "nothing")]
    assert "No such file or folder: " in fails_with(unknown, capsys)
    wav = str(tmp_path / "out.wav")
    assert "No such file: none" in fails_with(["decode", "none", "-o", wav], capsys)
    text = fails_with(["encode", str(tmp_path / "in.wav"), "-o", "x.txt"], capsys)
    assert "x.txt must end in .safetensors" in text
    assert "x.txt does not end in a supported audio extension" in fails_with(
        ["decode", wav, "-o", "x.txt"], capsys
    )
    assert not Path(out).exists()
    for device in ("cuda:9", "gpu"):
        wrong = ["encode", str(tmp_path / "in.wav"), "-o", out, "--device", device]
        assert " is not available here. Available: " in fails_with(wrong, capsys)


def test_a_codec_that_moved_is_asked_for(
    codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "in.wav", torch.zeros(1, 480), 24_000)
    tokens, out = str(tmp_path / "t.safetensors"), str(tmp_path / "out.wav")
    main(["encode", str(tmp_path / "in.wav"), "-o", tokens, "--codec", str(codec_folder)])
    moved = codec_folder.rename(tmp_path / "moved")
    assert "If the codec of these tokens moved, use --codec" in fails_with(
        ["decode", tokens, "-o", out], capsys
    )
    main(["decode", tokens, "-o", out, "--codec", str(moved)])
    assert audio_info(out).num_samples == 480


def test_tokens_of_changed_weights_are_refused(
    codec_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "in.wav", torch.zeros(1, 480), 24_000)
    tokens = tmp_path / "t.safetensors"
    main(["encode", str(tmp_path / "in.wav"), "-o", str(tokens), "--codec", str(codec_folder)])
    torch.manual_seed(1)
    save_frame_codec(FrameCodec(tiny()), codec_folder)
    shown = fails_with(["decode", str(tokens), "-o", str(tmp_path / "out.wav")], capsys)
    assert "load the codec that encoded them" in shown


def test_the_version_and_the_help_need_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['lm-audio', sys.argv[1]]\n"
        "from lm_audio.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    for option, expected in (("--version", __version__), ("--help", "encode")):
        shown = subprocess.run(
            [sys.executable, "-c", code, option], capture_output=True, text=True, check=True
        )
        assert expected in shown.stdout


def test_without_a_codec_that_of_the_package_gives_sound_that_resembles_the_original(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = torch.from_numpy(demo_clip(sample_rate=24_000))
    write_audio(tmp_path / "in.wav", original, 24_000)
    tokens, out = str(tmp_path / "t.safetensors"), tmp_path / "out.wav"
    main(["encode", str(tmp_path / "in.wav"), "-o", tokens])
    main(["decode", tokens, "-o", str(out)])
    decoded = read_audio(out).samples
    original = original.reshape(decoded.shape)
    hiss = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
    mels = log_mels(original, 24_000)
    heard, backwards, noisy = (
        (log_mels(other, 24_000) - mels).abs().mean()
        for other in (decoded, decoded.flip(1), original.std() * hiss)
    )
    assert heard < 0.9 * backwards
    assert heard < 0.6 * noisy
    assert "tokens of frame-codec" in capsys.readouterr().out


def test_info_of_tokens_needs_no_torch(tmp_path: Path) -> None:
    tokens = EncodedAudio(
        tokens=torch.zeros(4, 75, dtype=torch.int64),
        gains=None,
        num_samples=36_000,
        sample_rate=24_000,
        codec="runs/my codec",
        identity="frame-codec-0123",
    )
    path = tmp_path / "song.safetensors"
    save_encoded(tokens, path)
    code = (
        "import sys; from lm_audio.cli import main; main(['info', sys.argv[1]])\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert {name: text.strip() for name, text in shown.items()} == {
        "tokens": "4 codebooks x 75 frames",
        "frame rate": "50 Hz",
        "duration": "1.50 s at 24000 Hz",
        "codec": "runs/my codec (frame-codec-0123)",
        "command": f"lm-audio decode {path} -o song.wav",
    }


def test_info_of_other_tensors_gets_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "is not a token file" in fails_with(["info", f"{tmp_path}/other.safetensors"], capsys)
    assert "No such file" in fails_with(["info", f"{tmp_path}/none.safetensors"], capsys)
