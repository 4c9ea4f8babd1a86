"""Reading: every format, segments against slices of the whole, streams against the whole."""

import io
import math
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio_tokenizers.audio_files import Audio, audio_info, read_audio, stream_audio
from audio_tokenizers.audio_writer import AudioWriter, write_audio
from audio_tokenizers.resampling import StreamResampler, resample

FORMATS = ("wav", "flac", "ogg", "opus", "mp3")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.2 * torch.randn(*shape, generator=generator)).clamp(-0.9, 0.9)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.wav, clip.flac, ... of the same 2.1 s stereo noise at 24 kHz."""
    folder = tmp_path_factory.mktemp("clips")
    for suffix in FORMATS:
        write_audio(folder / f"clip.{suffix}", noise(2, 50_321), 24_000)
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_info_tells_what_was_written(clips: Path, suffix: str) -> None:
    info = audio_info(clips / f"clip.{suffix}")

    assert (info.sample_rate, info.num_channels, info.num_samples) == (24_000, 2, 50_321)
    assert info.format == suffix
    assert info.duration == pytest.approx(50_321 / 24_000)


@pytest.mark.parametrize("suffix", FORMATS)
def test_whole_file_is_what_soundfile_decodes(clips: Path, suffix: str) -> None:
    expected, _ = soundfile.read(clips / f"clip.{suffix}", dtype="float32")

    audio = read_audio(clips / f"clip.{suffix}")

    assert audio.samples.dtype == torch.float32
    np.testing.assert_allclose(audio.samples.numpy(), expected.T, rtol=0, atol=2e-7)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("sample_rate", [None, 16_000, 44_100])
def test_segment_equals_slice_of_whole_file(
    clips: Path, suffix: str, sample_rate: int | None
) -> None:
    path = clips / f"clip.{suffix}"
    whole = read_audio(path, sample_rate=sample_rate)
    rate = whole.sample_rate

    for start, duration in [(0.0, 0.3), (0.51237, 0.7), (1.9, 0.15), (2.0966, None)]:
        segment = read_audio(path, start=start, duration=duration, sample_rate=sample_rate)

        first = round(start * rate)
        stop = None if duration is None else first + round(duration * rate)
        torch.testing.assert_close(segment.samples, whole.samples[:, first:stop], rtol=0, atol=2e-6)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("sample_rate", [None, 16_000, 44_100])
def test_streamed_audio_equals_whole_audio(
    clips: Path, suffix: str, sample_rate: int | None
) -> None:
    path = clips / f"clip.{suffix}"
    whole = read_audio(path, sample_rate=sample_rate, num_channels=1)

    pieces = list(stream_audio(path, sample_rate=sample_rate, num_channels=1, block_seconds=0.137))

    assert len(pieces) > 10
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole.samples, rtol=0, atol=2e-7)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_segments_of_long_ogg_equal_slices(tmp_path: Path, suffix: str) -> None:
    # Segments more than a minute before the end are sought, later ones decoded from the start.
    path = tmp_path / f"long.{suffix}"
    write_audio(path, noise(1, 8_000 * 75), 8_000)
    whole = read_audio(path).samples

    for start in (0.1, 3.21, 9.7, 14.4, 20.0, 74.5):
        segment = read_audio(path, start=start, duration=0.5).samples
        first = round(start * 8_000)
        torch.testing.assert_close(segment, whole[:, first : first + 4_000], rtol=0, atol=1e-6)


def test_segment_ends_where_the_file_ends(clips: Path) -> None:
    audio = read_audio(clips / "clip.wav", start=2.0, duration=10.0)

    assert audio.samples.shape == (2, 2_321)
    assert audio.duration == pytest.approx(2_321 / 24_000)


def test_channels_are_mixed_by_mean_and_repeated(tmp_path: Path) -> None:
    samples = noise(3, 100)
    write_audio(tmp_path / "three.wav", samples, 16_000, encoding="float")
    write_audio(tmp_path / "one.wav", samples[0], 16_000, encoding="float")

    mono = read_audio(tmp_path / "three.wav", num_channels=1).samples
    stereo = read_audio(tmp_path / "one.wav", num_channels=2).samples

    torch.testing.assert_close(mono, samples.mean(dim=0, keepdim=True))
    assert torch.equal(stereo, samples[:1].repeat(2, 1))


def test_binary_file_reads_like_its_path(clips: Path) -> None:
    for suffix in FORMATS:
        data = io.BytesIO((clips / f"clip.{suffix}").read_bytes())
        expected = read_audio(clips / f"clip.{suffix}", start=0.5)
        assert torch.equal(read_audio(data, start=0.5).samples, expected.samples)


def test_format_is_found_by_content_whatever_the_name(clips: Path, tmp_path: Path) -> None:
    shutil.copy(clips / "clip.flac", tmp_path / "song.mp3")

    assert audio_info(tmp_path / "song.mp3").format == "flac"


@pytest.mark.parametrize("num_samples", [1, 2, 3, 1_601])
@pytest.mark.parametrize("rates", [(48_000, 16_000), (16_000, 44_100), (44_100, 24_000)])
def test_resampled_length_is_exact(num_samples: int, rates: tuple[int, int]) -> None:
    from_rate, to_rate = rates
    samples = noise(2, 3, num_samples)

    resampled = resample(samples, from_rate, to_rate)

    expected = max(1, math.floor(num_samples * to_rate / from_rate + 0.5))
    assert resampled.shape == (2, 3, expected)


def test_resample_is_soxr_on_each_row() -> None:
    samples = noise(2, 2, 4_410)

    resampled = resample(samples, 44_100, 24_000)

    assert np.array_equal(resampled[1, 0], soxr.resample(samples[1, 0].numpy(), 44_100, 24_000))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rates=st.tuples(*[st.sampled_from([8_000, 16_000, 22_050, 24_000, 44_100, 48_000])] * 2),
    sizes=st.lists(st.integers(0, 3_000), min_size=1, max_size=6),
)
def test_resampled_pieces_equal_the_whole(rates: tuple[int, int], sizes: list[int]) -> None:
    samples = noise(1, sum(sizes) + 1)
    stream = StreamResampler(*rates, num_channels=1)

    pieces = [stream.push(piece) for piece in samples.split([*sizes, 1], dim=-1)]

    streamed = torch.cat([*pieces, stream.finish()], dim=-1)
    torch.testing.assert_close(streamed, resample(samples, *rates), rtol=0, atol=1e-6)


def test_resampler_fed_single_samples_equals_resample() -> None:
    samples = noise(2, 301)
    stream = StreamResampler(16_000, 24_000, num_channels=2)

    pieces = [stream.push(samples[:, i : i + 1]) for i in range(301)] + [stream.finish()]

    assert torch.equal(torch.cat(pieces, dim=-1), resample(samples, 16_000, 24_000))


def test_wav_from_a_pipe_is_read_to_its_end(clips: Path) -> None:
    data = (clips / "clip.wav").read_bytes()
    expected = read_audio(clips / "clip.wav").samples
    position = data.index(b"data") + 4

    for size in (0xFFFFFFFF, 0x7FFFF000):
        unsized = bytearray(data)
        unsized[4:8] = struct.pack("<I", size)
        unsized[position : position + 4] = struct.pack("<I", size)
        assert torch.equal(read_audio(io.BytesIO(unsized)).samples, expected)


def test_wav_from_a_pipe_that_states_no_samples_is_refused(clips: Path) -> None:
    data = bytearray((clips / "clip.wav").read_bytes())
    position = data.index(b"data") + 4
    data[4:8] = data[position : position + 4] = bytes(4)
    with pytest.raises(ValueError, match="has no samples, or its header does not state"):
        read_audio(io.BytesIO(data))


def test_flac_from_a_pipe_is_read_to_its_end(clips: Path) -> None:
    data = bytearray((clips / "clip.flac").read_bytes())
    expected = read_audio(clips / "clip.flac").samples
    data[21] &= 0xF0  # the count of samples: 36 bits, 0 where unknown
    data[22:26] = bytes(4)

    assert audio_info(io.BytesIO(data)).num_samples == expected.shape[-1]
    assert torch.equal(read_audio(io.BytesIO(data)).samples, expected)
    assert torch.equal(read_audio(io.BytesIO(data), start=1.0).samples, expected[:, 24_000:])


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.7, 0.95])
def test_a_truncated_file_is_read_up_to_its_end_with_a_warning(
    clips: Path, suffix: str, kept: float
) -> None:
    data = (clips / f"clip.{suffix}").read_bytes()
    cut = io.BytesIO(data[: int(len(data) * kept)])
    whole = read_audio(clips / f"clip.{suffix}").samples

    info = audio_info(cut)
    with pytest.warns(UserWarning, match=r"is truncated; using the \d\.\d\d s that are left"):
        samples = read_audio(cut).samples
    with pytest.warns(UserWarning, match="is truncated"):
        streamed = torch.cat(list(stream_audio(cut)), dim=-1)

    assert info.is_truncated
    assert samples.shape[-1] == info.num_samples
    assert (kept - 0.3) * 50_321 < info.num_samples < 50_321
    assert torch.equal(streamed, samples)
    same = info.num_samples - 5_000  # a lossy decoder needs the next block for its last samples
    torch.testing.assert_close(samples[:, :same], whole[:, :same], rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_cut_off_in_its_header_is_refused(clips: Path, suffix: str) -> None:
    cut = io.BytesIO((clips / f"clip.{suffix}").read_bytes()[:45])

    with pytest.raises(ValueError, match=r"is truncated: no|has no samples"):
        audio_info(cut)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
def test_an_ogg_file_without_its_last_page_is_truncated(clips: Path, suffix: str) -> None:
    data = (clips / f"clip.{suffix}").read_bytes()

    assert audio_info(io.BytesIO(data[: data.rindex(b"OggS")])).is_truncated
    assert not audio_info(io.BytesIO(data)).is_truncated


FFMPEG = shutil.which("ffmpeg")


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    ("suffix", "options", "name"),
    [
        ("m4a", ["-c:a", "aac"], "mp4"),
        ("mp4", ["-c:a", "aac", "-movflags", "+faststart"], "mp4"),
        ("aac", ["-c:a", "aac"], "aac"),
        ("webm", ["-c:a", "libopus"], "webm"),
    ],
)
def test_files_of_phones_and_browsers_are_read_through_ffmpeg(
    tmp_path: Path, suffix: str, options: list[str], name: str
) -> None:
    time = torch.arange(48_000) / 48_000
    tone = 0.3 * torch.sin(2 * math.pi * 440 * time).repeat(2, 1)
    write_audio(tmp_path / "tone.wav", tone, 48_000)
    path = tmp_path / f"tone.{suffix}"
    command = [str(FFMPEG), "-v", "error", "-i", str(tmp_path / "tone.wav"), *options, str(path)]
    subprocess.run(command, check=True)

    info, audio = audio_info(path), read_audio(path, num_channels=1)

    assert (info.format, info.sample_rate, info.num_channels) == (name, 48_000, 2)
    assert audio.duration == pytest.approx(1.0, abs=0.1)
    middle = audio.samples[0, 12_000:36_000]
    spectrum = torch.fft.rfft(middle).abs()
    assert int(spectrum.argmax()) == 220  # 440 Hz in half a second
    assert float(middle.abs().max()) == pytest.approx(0.3, abs=0.03)
    from_memory = read_audio(io.BytesIO(path.read_bytes()), num_channels=1)
    assert torch.equal(from_memory.samples, audio.samples)


def test_a_format_for_ffmpeg_without_ffmpeg_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "phone.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(99))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ValueError, match=r"phone\.m4a is MP4 audio, which needs ffmpeg"):
        audio_info(tmp_path / "phone.m4a")


def test_a_maximum_duration_refuses_longer_files(tmp_path: Path) -> None:
    write_audio(tmp_path / "long.flac", torch.zeros(1, 16_000), 8_000)
    assert audio_info(tmp_path / "long.flac", max_duration=2.0).duration == 2.0
    for read in (audio_info, read_audio):
        with pytest.raises(ValueError, match=r"long\.flac is longer than the maximum of 1\.5 s\."):
            read(tmp_path / "long.flac", max_duration=1.5)


@pytest.mark.skipif(sys.platform == "win32", reason="ffmpeg is a shell script here")
@pytest.mark.parametrize("size", [0, 1 << 30])
def test_ffmpeg_stops_at_the_maximum_duration_and_size(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in place of ffmpeg writes 1.5 s, and as many bytes (of a sparse file)."""
    write_audio(tmp_path / "out.wav", torch.zeros(1, 12_000), 8_000)
    (tmp_path / "ffmpeg").write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/given\nfor last; do :; done\n'
        f'cp {tmp_path}/out.wav "${{last#file:}}"\ntruncate -s ">{size}" "${{last#file:}}"\n'
    )
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "phone.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(99))
    problem = r"decodes to more than 1024 MiB\." if size else r"is longer than the maximum of 1 s\."
    with pytest.raises(ValueError, match=problem):
        read_audio(tmp_path / "phone.m4a", max_duration=1.0)
    assert " -t 2 -fs 1073741824 file:" in (tmp_path / "given").read_text()


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
def test_a_damaged_file_for_ffmpeg_is_refused_without_a_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "phone.m4a").write_bytes(bytes(4) + b"ftypM4A " + bytes(99))

    with pytest.raises(ValueError, match=r"ffmpeg cannot decode .*phone\.m4a: ") as caught:
        audio_info(tmp_path / "phone.m4a")
    assert "source" not in str(caught.value)


def test_a_header_is_read_without_torch(clips: Path) -> None:
    code = (
        "import sys; from audio_tokenizers.audio_files import audio_info\n"
        "print(audio_info(sys.argv[1]).num_samples); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(clips / "clip.wav")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "50321\n"


def test_file_damaged_in_the_middle_is_refused(clips: Path) -> None:
    data = bytearray((clips / "clip.flac").read_bytes())
    data[60_000:80_000] = bytes(20_000)

    with pytest.raises(ValueError, match="is damaged: decoding failed after"):
        read_audio(io.BytesIO(data))


def test_mp3_without_a_length_is_read() -> None:
    constant = io.BytesIO()
    with soundfile.SoundFile(
        constant, "w", 24_000, 1, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5
    ) as file:
        file.write(noise(24_000).numpy())
    data = constant.getvalue()
    audio = read_audio(io.BytesIO(data[data.index(data[:2], 4) :]))  # the first frame states it
    assert abs(audio.samples.shape[-1] - 24_000) < 3_000


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No such file: .*gone\.wav"):
        read_audio(tmp_path / "gone.wav")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; expected an audio file"):
        read_audio(tmp_path)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "ogg", "raw"])
def test_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"empty.{suffix}").touch()

    with pytest.raises(ValueError, match="is empty"):
        read_audio(tmp_path / f"empty.{suffix}")


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "raw"])
@pytest.mark.parametrize("data", [b"hello, world\n" * 99, b"RIFF", bytes(500)])
def test_other_file_is_refused(tmp_path: Path, suffix: str, data: bytes) -> None:
    (tmp_path / f"text.{suffix}").write_bytes(data)

    with pytest.raises(ValueError, match="is not an audio file"):
        read_audio(tmp_path / f"text.{suffix}")


def test_audio_of_zero_length_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 16_000)

    with pytest.raises(ValueError, match="has no samples"):
        read_audio(tmp_path / "none.wav")


def test_wav_of_zero_length_before_other_chunks_is_refused() -> None:
    # Not one from a pipe: its header accounts for every byte.
    format_chunk = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    body = b"WAVE" + format_chunk + b"data" + bytes(4) + b"LIST" + struct.pack("<I", 4) + b"INFO"

    with pytest.raises(ValueError, match="has no samples"):
        audio_info(io.BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, value]), 16_000, subtype="FLOAT")

    with pytest.raises(ValueError, match="contains NaN or infinite samples"):
        read_audio(tmp_path / "nan.wav")
    with pytest.raises(ValueError, match="contains NaN or infinite samples"):
        list(stream_audio(tmp_path / "nan.wav"))


def test_more_than_64_channels_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "64.wav", np.zeros((5, 64)), 16_000)
    soundfile.write(tmp_path / "65.wav", np.zeros((5, 65)), 16_000)

    assert read_audio(tmp_path / "64.wav").samples.shape == (64, 5)
    with pytest.raises(ValueError, match="has 65 channels; the maximum is 64"):
        read_audio(tmp_path / "65.wav")


@pytest.mark.parametrize("sample_rate", [999, 768_001])
def test_absurd_rates_are_refused(tmp_path: Path, sample_rate: int) -> None:
    soundfile.write(tmp_path / "odd.wav", np.zeros(9), sample_rate)
    soundfile.write(tmp_path / "good.wav", np.zeros(9), 16_000)

    with pytest.raises(ValueError, match=f"cannot be used: A sample rate of {sample_rate} Hz is"):
        audio_info(tmp_path / "odd.wav")
    with pytest.raises(ValueError, match=f"A sample rate of {sample_rate} Hz is out of range"):
        read_audio(tmp_path / "good.wav", sample_rate=sample_rate)
    with pytest.raises(ValueError, match=f"A sample rate of {sample_rate} Hz is out of range"):
        list(stream_audio(tmp_path / "good.wav", sample_rate=sample_rate))
    with pytest.raises(ValueError, match="out of range"):
        resample(torch.zeros(9), sample_rate, 16_000)


@pytest.mark.parametrize("start", [-0.1, math.nan, math.inf])
def test_segment_before_the_start_is_refused(clips: Path, start: float) -> None:
    with pytest.raises(ValueError, match="A segment must start at 0 s or later"):
        read_audio(clips / "clip.wav", start=start)


@pytest.mark.parametrize("duration", [0.0, -1.0, math.nan])
def test_segment_without_duration_is_refused(clips: Path, duration: float) -> None:
    with pytest.raises(ValueError, match="A segment must be longer than 0 s"):
        read_audio(clips / "clip.wav", duration=duration)


@pytest.mark.parametrize("suffix", FORMATS)
def test_segment_beyond_the_end_is_refused(clips: Path, suffix: str) -> None:
    with pytest.raises(ValueError, match=r"is 2\.097 s long, but the segment starts at 2\.2 s"):
        read_audio(clips / f"clip.{suffix}", start=2.2)


def test_channels_that_cannot_be_made_are_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match="has 2 channels and cannot be read with 3; choose 1 or 2"):
        read_audio(clips / "clip.wav", num_channels=3)
    with pytest.raises(ValueError, match="has 2 channels and cannot be read with 0"):
        list(stream_audio(clips / "clip.wav", num_channels=0))


def test_blocks_without_length_are_refused(clips: Path) -> None:
    with pytest.raises(ValueError, match="block_seconds is 0; use a positive number"):
        next(stream_audio(clips / "clip.wav", block_seconds=0))


def test_duration_is_in_seconds() -> None:
    assert Audio(samples=torch.zeros(1, 8_000), sample_rate=16_000).duration == 0.5


def test_long_file_streams_in_small_blocks(tmp_path: Path) -> None:
    with AudioWriter(tmp_path / "long.wav", 8_000) as writer:
        for _ in range(60):
            writer.write(torch.zeros(1, 8_000))

    pieces = list(stream_audio(tmp_path / "long.wav", block_seconds=7.0))

    assert [piece.shape[-1] for piece in pieces] == [56_000] * 8 + [32_000]
