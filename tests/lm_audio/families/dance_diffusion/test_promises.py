"""What every family promises: the same clip in any company, exact lengths, kept prompts."""

import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from lm_audio.cli import main
from lm_audio.families.dance_diffusion.stages import dance_diffusion
from lm_audio.networks.unet1d import UNet1d, UNet1dConfig
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

RATE = 1600
SAMPLING = Denoising(steps=3, solver="ipndm", guidance_scale=1.0)
LONG = 0.11  # seconds: three windows of 0.06 s, the last filled up


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def clip(model: AudioPipeline, **settings: Any) -> Tensor:
    given: dict[str, Any] = {"duration": 0.06, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(**given).samples


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 100 * time).repeat(2, 1)


@pytest.mark.parametrize("duration", [1 / RATE, 0.0501, 0.06, LONG, 0.2])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (2, round(duration * RATE))
    assert made.isfinite().all()
    assert made.abs().max() > 0.01


def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline) -> None:
    alone = clip(model, duration=LONG, seed=7)
    batch = model.generate(duration=[0.05, LONG, 0.06, LONG], seed=[1, 7, 3, 8], sampling=SAMPLING)
    assert torch.equal(batch[1].samples, alone)
    assert torch.equal(batch[0].samples, clip(model, duration=0.05, seed=1))
    assert not torch.equal(batch[3].samples, alone)


@pytest.mark.parametrize("duration", [0.05, LONG, 0.2])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    pieces = list(model.stream(duration=duration, seed=2, sampling=SAMPLING))
    assert torch.equal(torch.cat(pieces, dim=1), clip(model, duration=duration, seed=2))


def test_a_longer_clip_begins_with_the_whole_windows_of_a_shorter_one(
    model: AudioPipeline,
) -> None:
    short = clip(model, duration=0.06, raw=True)
    longer = clip(model, duration=0.3, raw=True)
    assert torch.equal(longer[:, : short.shape[1]], short)


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tone(0.1)
    made = model.continue_from((prompt, RATE), duration=0.1, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (2, 320)
    assert torch.equal(made.samples[:, :160], prompt)
    assert made.samples[:, 160:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tone(0.1)
    made = model.inpaint((whole, RATE), start=0.04, end=0.06, seed=3, sampling=SAMPLING).samples
    assert torch.equal(made[:, :64], whole[:, :64])
    assert torch.equal(made[:, 96:], whole[:, 96:])
    assert not torch.allclose(made[:, 64:96], whole[:, 64:96], atol=0.01)


def test_a_variation_moves_away_with_its_strength(model: AudioPipeline) -> None:
    sound = tone(0.1)
    distances = []
    for strength in (0.1, 0.5, 1.0):
        sampling = Denoising(steps=10, solver="ddim", guidance_scale=1.0)
        made = model.vary((sound, RATE), strength=strength, seed=1, sampling=sampling, raw=True)
        assert made.samples.shape == sound.shape
        distances.append(float((made.samples - sound).square().mean()))
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[-1]


@pytest.mark.parametrize("duration", [0.005, 0.05, 0.06])
def test_a_loop_has_its_length_and_no_prompt(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration, loop=True)
    assert made.shape == (2, round(duration * RATE))
    assert made.isfinite().all()


def test_the_command_line_makes_the_same_clip_without_a_prompt(
    model: AudioPipeline, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "line.wav"
    options = ["--duration", "0.1", "--seed", "5", "--steps", "3", "--model", str(folder)]
    main(["generate", *options, "-o", str(out), "-q"])
    model.generate(duration=0.1, seed=5, sampling=SAMPLING).save(tmp_path / "python.wav")
    assert torch.equal(*(read_audio(path).samples for path in (out, tmp_path / "python.wav")))


def test_the_command_line_goes_between_two_sounds(
    model: AudioPipeline, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.wav", tmp_path / "b.wav"]
    for path, sound in zip(paths, (tone(0.1), tone(0.1).flip(1) * 0.5), strict=True):
        write_audio(path, sound, RATE)
    out = tmp_path / "line.wav"
    options = ["--strength", "0.6", "--share", "0.3", "--seed", "5", "--steps", "3", "--raw"]
    options += ["--solver", "v-ddim", "--eta", "0.5", "--model", str(folder)]
    main(["vary", str(paths[0]), "--towards", str(paths[1]), *options, "-o", str(out), "-q"])
    sampling = Denoising(steps=3, solver="ddim", eta=0.5, guidance_scale=1.0)
    made = model.vary(
        paths[0], towards=paths[1], strength=0.6, share=0.3, seed=5, sampling=sampling, raw=True
    )
    made.save(tmp_path / "python.wav")
    assert torch.equal(*(read_audio(path).samples for path in (out, tmp_path / "python.wav")))
    for path in (out, tmp_path / "python.wav"):
        words = str(command(read_origin(path)))
        for part in (f"--towards {paths[1]}", "--share 0.3", "--eta 0.5", "--solver ddim"):
            assert part in words
    with pytest.raises(SystemExit):
        main(["vary", str(paths[0]), "--share", "0.3", "--model", str(folder)])
    assert "--share has no effect without --towards" in capsys.readouterr().err


def test_a_prompt_is_refused(model: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="This model has no condition 'text'"):
        model.generate("rain", duration=0.05)
    with pytest.raises(ValueError, match="This model has no condition 'text'"):
        model.generate(duration=0.05, negative="noise")


@pytest.mark.slow
def test_ten_minutes_take_constant_memory() -> None:
    config = UNet1dConfig(
        in_channels=2, out_channels=2, widths=(4, 4, 8, 8, 32), num_attending=0, time_width=4
    )
    torch.manual_seed(0)
    model = AudioPipeline(dance_diffusion(UNet1d(config), sample_rate=8000, window=65_536))
    quick = Denoising(steps=1, solver="ddim", guidance_scale=1.0)
    num_samples, after_two_minutes = 0, 0
    for piece in model.stream(duration=600.0, seed=1, sampling=quick):
        num_samples += piece.shape[1]
        if not after_two_minutes and num_samples > 120 * 8000:
            after_two_minutes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert num_samples == 600 * 8000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - after_two_minutes
    assert grown < 20 * 1024  # kB; the samples of eight minutes are 31 MB
