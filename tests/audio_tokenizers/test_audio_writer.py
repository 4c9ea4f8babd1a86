"""Writing: exact steps, one limiter for whole and streamed files, whole or nothing."""

import io
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio_tokenizers import audio_writer
from audio_tokenizers.audio_files import audio_info, read_audio
from audio_tokenizers.audio_writer import AudioWriter, write_audio
from audio_tokenizers.resampling import resample

FORMATS = ("wav", "flac", "ogg", "opus", "mp3")


def noise(*shape: int) -> torch.Tensor:
    return (0.2 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))).clamp(-0.9, 0.9)


@pytest.mark.parametrize(("encoding", "bits"), [(None, 16), ("pcm16", 16), ("pcm24", 24)])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_integer_samples_are_within_half_a_step(
    tmp_path: Path, suffix: str, encoding: audio_writer.Encoding | None, bits: int
) -> None:
    path = tmp_path / f"clip.{suffix}"
    samples = noise(2, 3_000)

    write_audio(path, samples, 16_000, encoding=encoding)

    assert soundfile.info(path).subtype == f"PCM_{bits}"
    steps = soundfile.read(path, dtype="int32")[0].T / 2 ** (32 - bits)
    error = np.abs(steps - samples.double().numpy() * 2 ** (bits - 1))
    assert error.max() <= 0.5


def test_rounding_is_symmetrical(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 0.01, 1_000)

    write_audio(tmp_path / "up.wav", ramp, 16_000)
    write_audio(tmp_path / "down.wav", -ramp, 16_000)

    up = soundfile.read(tmp_path / "up.wav", dtype="int16")[0]
    assert np.array_equal(up, -soundfile.read(tmp_path / "down.wav", dtype="int16")[0])
    assert np.array_equal(up, np.rint(ramp.numpy() * 32_768))


def test_float_wav_keeps_every_bit_and_is_not_limited(tmp_path: Path) -> None:
    samples = 3 * noise(2, 1_000)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_audio(tmp_path / "clip.wav", samples, 16_000, encoding="float")

    assert torch.equal(read_audio(tmp_path / "clip.wav").samples, samples)


@pytest.mark.parametrize("suffix", ["ogg", "opus", "mp3"])
def test_lossy_formats_keep_length_and_sound(tmp_path: Path, suffix: str) -> None:
    time = torch.arange(24_000) / 24_000
    samples = torch.stack([torch.sin(440 * math.tau * time), torch.sin(660 * math.tau * time)]) / 2

    write_audio(tmp_path / f"clip.{suffix}", samples, 24_000)

    back = read_audio(tmp_path / f"clip.{suffix}")
    assert back.sample_rate == 24_000
    assert back.samples.shape == samples.shape
    error = (back.samples - samples)[:, 2_000:-2_000]
    assert error.square().mean() < 0.001 * samples.square().mean()


@pytest.mark.parametrize("suffix", FORMATS)
def test_streamed_file_equals_whole_file(tmp_path: Path, suffix: str) -> None:
    samples = 4 * noise(2, 30_011)  # limited, and (Opus, MP3) resampled on the way
    rate = 9_000

    def stream() -> None:
        with AudioWriter(tmp_path / f"streamed.{suffix}", rate, num_channels=2) as writer:
            for i in range(0, 30_011, 1_234):
                writer.write(samples[:, i : i + 1_234])

    with pytest.warns(UserWarning, match="exceeded full scale") as whole_warning:
        write_audio(tmp_path / f"whole.{suffix}", samples, rate)
    with pytest.warns(UserWarning, match="exceeded full scale") as streamed_warning:
        stream()

    whole = read_audio(tmp_path / f"whole.{suffix}")
    streamed = read_audio(tmp_path / f"streamed.{suffix}")
    torch.testing.assert_close(streamed.samples, whole.samples, rtol=0, atol=1e-6)
    assert str(whole_warning[0].message) == str(streamed_warning[0].message)


def test_limiting_is_by_clamping_and_says_by_how_much(tmp_path: Path) -> None:
    samples = torch.tensor([0.5, 1.0, -1.0, 2.0, -1.5, 0.25])

    with pytest.warns(
        UserWarning, match=r"^Clipped 2 samples that exceeded full scale by up to 6\.02 dB"
    ):
        write_audio(tmp_path / "clip.wav", samples, 16_000)

    steps = soundfile.read(tmp_path / "clip.wav", dtype="int16")[0]
    assert steps.tolist() == [16_384, 32_767, -32_768, 32_767, -32_768, 8_192]


def test_full_scale_is_not_limited(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_audio(tmp_path / "clip.wav", torch.tensor([1.0, -1.0]), 16_000)


@pytest.mark.parametrize(
    ("suffix", "rate", "written"),
    [
        ("opus", 44_100, 48_000),
        ("opus", 96_000, 48_000),
        ("mp3", 96_000, 48_000),
        ("mp3", 17_000, 22_050),
    ],
)
def test_rate_that_the_format_lacks_is_resampled_and_logged(
    tmp_path: Path, suffix: str, rate: int, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    samples = noise(1, 5_000)

    with caplog.at_level(logging.WARNING):
        write_audio(tmp_path / f"clip.{suffix}", samples, rate)

    assert f"{suffix} does not support {rate} Hz; resampling to {written} Hz" in caplog.text
    info = audio_info(tmp_path / f"clip.{suffix}")
    assert info.sample_rate == written
    assert info.num_samples == resample(samples, rate, written).shape[-1]


@pytest.mark.parametrize("name", FORMATS)
def test_binary_file_holds_what_a_path_holds(tmp_path: Path, name: str) -> None:
    samples = noise(2, 4_000)
    file = io.BytesIO()

    write_audio(file, samples, 16_000, format=name)
    write_audio(tmp_path / f"clip.{name}", samples, 16_000)

    assert audio_info(file).format == name
    expected = read_audio(tmp_path / f"clip.{name}").samples
    assert torch.equal(read_audio(file).samples, expected)


def test_long_vorbis_is_written_in_blocks_that_the_encoder_survives(tmp_path: Path) -> None:
    write_audio(tmp_path / "long.ogg", noise(1, 500_000), 24_000)

    assert audio_info(tmp_path / "long.ogg").num_samples == 500_000


def test_half_precision_and_gradients_are_accepted(tmp_path: Path) -> None:
    samples = noise(1, 100).bfloat16()

    write_audio(tmp_path / "clip.wav", samples.clone().requires_grad_(), 16_000, encoding="float")

    assert torch.equal(read_audio(tmp_path / "clip.wav").samples, samples.float())


def test_error_inside_the_block_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with AudioWriter(tmp_path / "clip.wav", 16_000) as writer:
            writer.write(noise(1, 100))
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_error_leaves_the_older_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "clip.flac"
    write_audio(path, noise(1, 100), 16_000)
    before = path.read_bytes()

    samples = noise(1, 50_000)
    samples[0, 49_000] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        write_audio(path, samples, 16_000)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="Got NaN or infinite samples"):
        write_audio(tmp_path / "clip.wav", torch.tensor([0.0, value]), 16_000, encoding="float")


def test_nothing_to_write_is_refused(tmp_path: Path) -> None:
    for suffix in FORMATS:
        with pytest.raises(ValueError, match="No samples were written"):
            write_audio(tmp_path / f"clip.{suffix}", torch.zeros(1, 0), 16_000)
    assert list(tmp_path.iterdir()) == []


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"use one of: \.wav, \.flac, \.ogg, \.opus, \.mp3"):
        write_audio(tmp_path / "clip.aac", noise(100), 16_000)


def test_format_belongs_to_binary_files_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no effect with a path"):
        write_audio(tmp_path / "clip.wav", noise(100), 16_000, format="wav")
    with pytest.raises(ValueError, match=r"Unknown format None\. Choose one of: wav, flac"):
        write_audio(io.BytesIO(), noise(100), 16_000)


@pytest.mark.parametrize(
    ("suffix", "encoding", "advice"),
    [
        ("flac", "float", "choose one of: pcm16, pcm24"),
        ("wav", "pcm8", "choose one of: pcm16, pcm24, float"),
        ("ogg", "pcm16", "remove it"),
        ("opus", "float", "remove it"),
        ("mp3", "pcm24", "remove it"),
    ],
)
def test_encoding_that_the_format_lacks_is_refused(
    tmp_path: Path, suffix: str, encoding: audio_writer.Encoding, advice: str
) -> None:
    with pytest.raises(ValueError, match=f"A .{suffix} file does not support .*; {advice}"):
        write_audio(tmp_path / f"clip.{suffix}", noise(100), 16_000, encoding=encoding)


@pytest.mark.parametrize(
    ("suffix", "num_channels", "most"),
    [("wav", 0, 64), ("wav", 65, 64), ("flac", 9, 8), ("mp3", 3, 2)],
)
def test_channels_that_the_format_lacks_are_refused(
    tmp_path: Path, suffix: str, num_channels: int, most: int
) -> None:
    with pytest.raises(ValueError, match=f"supports 1 to {most} channels, got {num_channels}"):
        write_audio(tmp_path / f"clip.{suffix}", noise(num_channels, 9), 16_000)


def test_rates_that_the_encoder_lacks_are_refused(tmp_path: Path) -> None:
    for suffix, most in (("ogg", 200_000), ("flac", 655_350)):
        write_audio(tmp_path / f"most.{suffix}", noise(2, 9), most)
        with pytest.raises(ValueError, match=f"A .{suffix} file supports at most {most} Hz"):
            write_audio(tmp_path / f"clip.{suffix}", noise(2, 9), most + 1)
    with pytest.raises(ValueError, match="A sample rate of 20 Hz is out of range"):
        write_audio(tmp_path / "clip.wav", noise(2, 9), 20)
    assert not list(tmp_path.glob("clip.*"))


@pytest.mark.parametrize("shape", [(), (1, 2, 3)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \[C, N\] or \[N\]"):
        write_audio(tmp_path / "clip.wav", torch.zeros(shape), 16_000)


def test_writer_refuses_other_channels_and_integers(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "clip.wav", 16_000, num_channels=2) as writer:
        with pytest.raises(ValueError, match=r"of shape \[1, 9\]; expected \[2, N\]"):
            writer.write(torch.zeros(1, 9))
        with pytest.raises(ValueError, match=r"of torch\.int64; expected floats within"):
            writer.write(torch.zeros(2, 9, dtype=torch.int64))
        writer.write(torch.zeros(2, 9))


def test_wav_beyond_4_gib_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_writer, "MAX_WAV_BYTES", 1_000)

    write_audio(tmp_path / "fits.wav", noise(500), 16_000)
    with pytest.raises(ValueError, match="WAV files are limited to 4 GiB; use FLAC"):
        write_audio(tmp_path / "clip.wav", noise(501), 16_000)
