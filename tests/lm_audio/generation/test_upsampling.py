"""Raising the rate of sound: independent of pieces, exact lengths, and what is refused."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.audio_writer import write_audio
from audio_tokenizers.resampling import resample
from lm_audio.generation import upsampling
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.track import Track, unknown_values
from lm_audio.generation.upsampling import raising, raising_stages
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

SAMPLING = Denoising(steps=2, solver="ddim", guidance_scale=1.0)
FAMILY = Path(__file__).parents[1] / "families/noise2music/conftest.py"


@pytest.fixture(scope="module")
def family() -> Any:
    spec = importlib.util.spec_from_file_location("noise2music_models", FAMILY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stages(family: Any) -> list[DiffusionStage]:
    found: list[DiffusionStage] = family.small_stages()
    return found


@pytest.fixture(scope="module")
def model(family: Any, stages: list[DiffusionStage]) -> AudioPipeline:
    return AudioPipeline(family.cascade(stages))


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def whole(stage: DiffusionStage, values: Tensor, num_frames: int) -> Tensor:
    """One track of all frames, as a clip has it."""
    source = Track(values=values, seed=1, sampling=None)
    made = Track(
        values=unknown_values(stage.makes, num_frames, stage.device),
        seed=1,
        sampling=SAMPLING,
        source=source,
        conditions={"level": 0.2},
    )
    batch = stage.new_batch()
    batch.add(made)
    while batch.step():
        pass
    return made.values


@pytest.mark.parametrize("length", [3, 64, 100, 117])
def test_pieces_of_any_size_become_what_a_whole_track_becomes(
    stages: list[DiffusionStage], length: int
) -> None:
    values = noise(1, length)
    expected = whole(stages[1], values, 4 * length)
    settings: dict[str, Any] = {"noise_level": 0.2, "seed": 1, "sampling": SAMPLING}
    how = raising(stages[:2], sample_rate=1000, **settings)
    for sizes in ([length], [1] * length, [2, 0, length - 2]):
        pieces = list(how.pieces(values.split(sizes, dim=1), sample_rate=1000))
        assert torch.equal(torch.cat(pieces, dim=1), expected), sizes
    assert len([piece for piece in pieces if piece.shape[1]]) > (length > 100)


def test_stages_follow_one_another(stages: list[DiffusionStage], model: AudioPipeline) -> None:
    values = noise(1, 90)
    how = raising(stages, sample_rate=1000, noise_level=0.2, seed=1, sampling=SAMPLING)
    made = torch.cat(list(how.pieces([values], sample_rate=1000)), dim=1)
    assert torch.equal(made, whole(stages[2], whole(stages[1], values, 360), 540))
    clip = model.upsample((values, 1000), noise_level=0.2, seed=1, sampling=SAMPLING)
    assert torch.equal(clip.samples, made)


@pytest.mark.parametrize(("rate", "first"), [(1000, 1), (2500, 1), (800, 1), (4000, 2), (5000, 2)])
def test_the_first_stage_keeps_all_of_the_sound(
    stages: list[DiffusionStage], rate: int, first: int
) -> None:
    found = raising_stages(stages, sample_rate=rate)
    assert [stage.name for stage in found] == [stage.name for stage in stages[first:]]
    assert len(raising_stages(stages, sample_rate=48_000, from_rate=1000)) == 2


@pytest.mark.parametrize(("rate", "length"), [(1000, 1), (2345, 501), (4999, 333), (4000, 61)])
def test_the_duration_is_kept(model: AudioPipeline, rate: int, length: int) -> None:
    made = model.upsample((noise(1, length), rate), seed=0, sampling=SAMPLING)
    assert (made.sample_rate, made.seed) == (6000, 0)
    assert made.samples.shape == (1, max(1, round(length * 6000 / rate + 1e-9)))
    assert made.samples.isfinite().all()


def test_channels_are_raised_apart_with_the_same_noise(model: AudioPipeline) -> None:
    stereo = noise(2, 300)
    made = model.upsample((stereo, 4000), seed=3, sampling=SAMPLING).samples
    for channel in range(2):
        alone = model.upsample((stereo[channel, None], 4000), seed=3, sampling=SAMPLING).samples
        assert torch.equal(made[channel, None], alone)
    same = model.upsample((stereo[:1].repeat(2, 1), 4000), seed=3, sampling=SAMPLING).samples
    assert torch.equal(same[0], same[1])


def test_a_model_of_stereo_takes_mono_and_stereo(family: Any) -> None:
    model = AudioPipeline(family.cascade(family.small_stages(num_channels=2)))
    for channels in (1, 2):
        made = model.upsample((noise(channels, 200), 4000), seed=3, sampling=SAMPLING)
        assert made.samples.shape == (2, 300)


def test_a_file_becomes_what_its_samples_become(
    model: AudioPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsampling, "_BLOCK_SECONDS", 0.05)
    path = tmp_path / "in.wav"
    write_audio(path, noise(2, 500), 3000, encoding="float")
    shares: list[float] = []
    made = model.upsample(path, seed=2, sampling=SAMPLING, progress=shares.append)
    again = model.upsample((read_audio(path).samples, 3000), seed=2, sampling=SAMPLING)
    assert torch.equal(again.samples, made.samples)
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    expected = {"verb": "upsample", "audio": str(path), "seed": 2, "from_rate": 1000, "steps": 2}
    assert expected.items() <= made.settings.items()


def test_sound_of_another_rate_is_resampled_to_that_of_the_first_stage(
    model: AudioPipeline,
) -> None:
    samples = noise(1, 600)
    made = model.upsample((samples, 5000), seed=1, sampling=SAMPLING).samples
    low = resample(samples, 5000, 4000)
    expected = model.upsample((low, 4000), seed=1, sampling=SAMPLING).samples
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_text_and_noise_change_the_result(model: AudioPipeline) -> None:
    def made(**settings: Any) -> Tensor:
        given = {"seed": 1, "sampling": SAMPLING, "from_rate": 1000} | settings
        return model.upsample((noise(1, 100), 1000), **given).samples

    first = made()
    assert torch.equal(made(), first)
    for change in ({"text": "rain"}, {"noise_level": 0.3}, {"seed": 2}):
        assert not torch.allclose(made(**change), first, atol=1e-4), change


def test_what_a_model_cannot_raise_is_refused(
    model: AudioPipeline, stages: list[DiffusionStage], family: Any, tmp_path: Path
) -> None:
    sound = (noise(1, 100), 1000)

    def refused(message: str, audio: Any = sound, one: AudioPipeline = model, **given: Any) -> None:
        with pytest.raises(ValueError, match=message):
            one.upsample(audio, **given)

    stereo = AudioPipeline(family.cascade(family.small_stages(num_channels=2)))
    refused("raises sound from 2000 Hz. Choose one of: 1000, 4000", from_rate=2000)
    refused("The audio already has 6000 Hz, and this model raises to 6000 Hz", (noise(1, 9), 6000))
    refused(r"Expected a noise level from 0 to 0\.5, or None, got 0\.9", noise_level=0.9)
    refused("This model has no condition 'text'", (noise(1, 9), 4000), text="rain")
    refused("Audio must be a path, a Clip, or samples", 3)
    refused("Samples contain NaN", (torch.full((1, 9), torch.nan), 1000))
    refused("Audio must have 1 or 2 channels, got 3", (noise(3, 9), 1000), stereo)
    refused("seed must be", seed=-1)
    with pytest.raises((ValueError, FileNotFoundError), match="No such file"):
        model.upsample(tmp_path / "none.wav")
    with pytest.raises(TypeError, match=r"upsample\(\) got an unexpected keyword argument 'raw'"):
        model.upsample(sound, raw=True)  # type: ignore[call-arg]
    generator = AudioPipeline(family.cascade(stages[:1]))
    refused("This model does not raise the sample rate of sound", one=generator)


def test_a_cascader_alone_raises_but_does_not_generate(
    family: Any, stages: list[DiffusionStage], tmp_path: Path, model: AudioPipeline
) -> None:
    AudioPipeline(family.cascade(stages[1:])).save(tmp_path / "lone")
    lone = lm_audio.load(tmp_path / "lone")
    sound, sampling = (noise(1, 150), 1000), SAMPLING
    made = lone.upsample(sound, seed=1, sampling=sampling).samples
    assert torch.equal(made, model.upsample(sound, seed=1, sampling=sampling).samples)
    for make in (lone.generate, partial(lone.continue_from, sound)):
        with pytest.raises(ValueError, match="This model has no generator"):
            make(duration=0.1)  # type: ignore[operator]
    with pytest.raises(ValueError, match="This model cannot vary audio"):
        lone.vary(sound)
