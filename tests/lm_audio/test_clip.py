"""Clips: saved, played, drawn and shown."""

import base64
import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from audio_tokenizers.audio_files import read_audio
from lm_audio.clip import Clip
from lm_audio.origin import read_origin

RATE = 24_000


def make_clip(samples: torch.Tensor) -> Clip:
    tokens = torch.zeros(4, 10, dtype=torch.int64)
    return Clip(
        samples=samples,
        sample_rate=RATE,
        tokens=tokens,
        stage_values={"semantic": tokens[:1]},
        seed=7,
        prompt="a bell",
    )


@pytest.fixture
def stereo() -> Clip:
    time = torch.arange(RATE // 2) / RATE
    return make_clip(0.5 * torch.stack([(440 * f * time).sin() for f in (1.0, 1.5)]))


@pytest.fixture
def player_saying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a program `aplay` on an otherwise empty path; it keeps the file that it is to play."""

    def install(ending: str) -> Path:
        played = tmp_path / "played.wav"
        program = tmp_path / "bin" / "aplay"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nfor file; do :; done\n/bin/cp "$file" {played}\n{ending}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))
        return played

    return install


def test_a_clip_says_how_long_it_is_in_seconds(stereo: Clip) -> None:
    assert stereo.duration == 0.5
    assert repr(stereo) == "Clip(0.500 s, 24000 Hz, stereo, seed 7)"
    assert "mono" in repr(make_clip(torch.zeros(1, 10)))
    assert "6 channels" in repr(make_clip(torch.zeros(6, 10)))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_clip_is_saved_in_every_format(stereo: Clip, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    stereo.save(path)
    read = read_audio(path)
    assert read.samples.shape[0] == 2
    assert abs(read.duration - 0.5) < 0.08  # MP3 pads
    if suffix in (".wav", ".flac"):
        torch.testing.assert_close(read.samples, stereo.samples, rtol=0, atol=2**-16)


def test_a_picture_of_the_spectrogram_is_read_as_sound(stereo: Clip, tmp_path: Path) -> None:
    stereo.save(tmp_path / "clip.png")
    made = read_audio(tmp_path / "clip.png")
    assert made.samples.shape == (2, 22_050)
    assert read_origin(tmp_path / "clip.png")["prompt"] == "a bell"
    for channel, frequency in zip(made.samples, (440, 660), strict=True):  # radians
        strongest = 2 * int(torch.fft.rfft(channel).abs().argmax())  # bins of 2 Hz
        assert strongest == pytest.approx(frequency / 6.283, abs=4)
    before = (tmp_path / "clip.png").read_bytes()
    with pytest.raises(ValueError, match="supports 1 or 2 channels, got 6"):
        make_clip(torch.zeros(6, 10)).save(tmp_path / "clip.png")
    assert (tmp_path / "clip.png").read_bytes() == before


def test_samples_beyond_full_scale_are_clipped_with_a_warning(tmp_path: Path) -> None:
    clip = make_clip(torch.tensor([[0.5, 2.0, -1.5, 0.0]]))
    with pytest.warns(UserWarning, match=r"^Clipped 2 samples that exceeded full scale by up to 6"):
        clip.save(tmp_path / "loud.wav")
    read = read_audio(tmp_path / "loud.wav").samples
    torch.testing.assert_close(read, clip.samples.clamp(-1, 1), rtol=0, atol=2**-14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_clip(clip.samples / 2).save(tmp_path / "fits.wav")


def test_a_clip_that_cannot_be_saved_leaves_the_older_file(stereo: Clip, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    stereo.save(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN or infinite"):
        make_clip(torch.full((1, 100), torch.nan)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_suffix_is_refused_with_the_known_ones(stereo: Clip, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"supported audio suffix; use one of: \.wav, \.flac"):
        stereo.save(tmp_path / "clip.xyz")


@pytest.mark.parametrize("samples", [torch.zeros(10), torch.zeros(1, 10, dtype=torch.float64)])
def test_samples_of_another_shape_or_type_are_refused(samples: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"Expected samples of shape \[C, N\] and type torch\.float32"
    ):
        make_clip(samples)


@pytest.mark.skipif(sys.platform == "win32", reason="the player is a shell script")
def test_a_player_gets_the_sound_of_the_clip(
    stereo: Clip, player_saying: Callable[[str], Path]
) -> None:
    played = player_saying("exit 0")
    stereo.play()
    torch.testing.assert_close(read_audio(played).samples, stereo.samples, rtol=0, atol=2**-16)


@pytest.mark.skipif(sys.platform == "win32", reason="the player is a shell script")
def test_what_a_failing_player_says_is_passed_on(
    stereo: Clip, player_saying: Callable[[str], Path]
) -> None:
    player_saying("echo no sound card >&2; exit 1")
    with pytest.raises(OSError, match=r"aplay could not play the clip: no sound card"):
        stereo.play()


@pytest.mark.skipif(sys.platform == "win32", reason="the player is a shell script")
def test_ffplay_without_a_sound_device_is_an_error(
    stereo: Clip, tmp_path: Path, player_saying: Callable[[str], Path]
) -> None:
    player_saying("echo 'ALSA lib x.c: no card\n\naudio open failed' >&2; exit 0")
    (tmp_path / "bin/aplay").rename(tmp_path / "bin/ffplay")
    with pytest.raises(OSError, match="ffplay could not play the clip: audio open failed"):
        stereo.play()


def test_without_a_player_the_error_names_some(
    stereo: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(FileNotFoundError, match="Install one of: afplay, paplay, aplay, play"):
        stereo.play()


def test_a_notebook_shows_a_title_and_a_player_with_the_same_sound(stereo: Clip) -> None:
    shown = replace(stereo, prompt="<b>a bell</b>\n", model="Bells & Co")._repr_html_()
    assert "<strong>&lt;b&gt;a bell&lt;/b&gt; (seed 7)</strong>" in shown
    assert "<small>0.50 s, 24000 Hz, stereo, model Bells &amp; Co</small>" in shown
    found = re.search(r'src="data:audio/flac;base64,([^"]+)"', shown)
    assert found is not None
    read = read_audio(io.BytesIO(base64.b64decode(found.group(1))))
    torch.testing.assert_close(read.samples, stereo.samples, rtol=0, atol=2**-16)
    assert "<strong>Clip (seed 7)</strong>" in replace(stereo, prompt=None)._repr_html_()


def test_a_clip_is_drawn_under_its_prompt_and_seed(stereo: Clip, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    stereo.plot(tmp_path / "clip.svg")
    assert "<!-- a bell (seed 7) -->" in (tmp_path / "clip.svg").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.svg"]
