"""Variations of audio and loops, with denoisers of Gaussian data and small networks."""

import math

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.generation.interpolation import slerp
from lm_audio.generation.track import Variation
from lm_audio.model import Model
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.loop import levelled, shortened
from lm_audio.renderers.loudness import TARGET, Leveller
from lm_audio.sampling import Denoising
from tests.lm_audio.generation.test_diffusion_stage import (
    FLOW,
    MEAN,
    RATE,
    SPREAD,
    WIDTH,
    Renderer,
    gaussian_stage,
    made,
    tiny_pipeline,
    tiny_stage,
)

HUM = 0.3 * torch.sin(torch.arange(400) / 5)[None]
PLAIN_RATE = 16_000


def test_a_variation_moves_away_with_its_strength() -> None:
    stage = gaussian_stage(schedule=FLOW, steps=20)
    original = MEAN + SPREAD * torch.randn(WIDTH, 64, generator=torch.Generator().manual_seed(2))

    def slope(strength: float) -> float:
        values = made(stage, 64, variation=Variation(values=original, strength=strength))
        return float(((values - MEAN) * (original - MEAN)).mean() / SPREAD**2)

    slopes = [slope(strength) for strength in (0.05, 0.4, 0.7, 1.0)]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[0] > 0.9
    assert abs(slopes[-1]) < 0.15
    assert torch.equal(  # a flow starts from noise alone
        made(stage, 64, variation=Variation(values=original, strength=1.0)), made(stage, 64)
    )


def test_a_variation_takes_its_share_of_the_steps_and_any_length() -> None:
    pipeline = tiny_pipeline(sampling=Denoising(steps=10))
    network = pipeline.stages["latents"].network  # type: ignore[attr-defined]
    reports: list[float] = []
    clip = pipeline.vary((HUM, RATE), strength=0.3, seed=3, progress=reports.append)
    assert clip.samples.shape == HUM.shape
    assert len(network.rows) == 3 * 4  # windows of 20 frames, each after the first 14 new
    assert reports[-1] == 1.0
    again = pipeline.vary((HUM, RATE), strength=0.3, seed=3)
    assert torch.equal(again.samples, clip.samples)
    other = pipeline.vary((HUM, RATE), strength=0.3, seed=4)
    text = pipeline.vary((HUM, RATE), strength=0.3, seed=3, text="wind")
    for one in (other, text):
        assert not torch.isclose(one.samples, clip.samples).all()


def test_a_variation_between_two_sounds_moves_with_its_share() -> None:
    stage = gaussian_stage(schedule=FLOW, steps=20)
    generator = torch.Generator().manual_seed(2)
    first, second = (MEAN + SPREAD * torch.randn(WIDTH, 64, generator=generator) for _ in range(2))

    def slopes(share: float) -> list[float]:
        varied = Variation(values=first, strength=0.4, towards=second, share=share)
        values = made(stage, 64, variation=varied)
        return [
            float(((values - MEAN) * (one - MEAN)).mean() / SPREAD**2) for one in (first, second)
        ]

    found = [slopes(share) for share in (0.0, 0.3, 0.7, 1.0)]
    of_first, of_second = zip(*found, strict=True)
    assert list(of_first) == sorted(of_first, reverse=True)
    assert list(of_second) == sorted(of_second)
    plain = made(stage, 64, variation=Variation(values=first, strength=0.4))
    alone = Variation(values=first, strength=0.4, towards=second, share=0.0)
    torch.testing.assert_close(made(stage, 64, variation=alone), plain)


def test_an_arc_keeps_the_power_of_noise_and_meets_its_ends() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(2, 5000, generator=generator) for _ in range(2))
    assert float(slerp(a, b, 0.5).std()) == pytest.approx(1.0, abs=0.02)
    assert float(torch.lerp(a, b, 0.5).std()) < 0.75
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    for other in (a, -a, torch.zeros_like(a)):  # no arc, or no single one
        torch.testing.assert_close(slerp(a, other, 0.25), torch.lerp(a, other, 0.25))
    angle = math.acos(float((a * b).sum() / (a.norm() * b.norm())))
    third = (math.sin(angle * 2 / 3) * a + math.sin(angle / 3) * b) / math.sin(angle)
    torch.testing.assert_close(slerp(a, b, 1 / 3), third)


def test_other_audio_is_fitted_and_changes_a_variation() -> None:
    pipeline = tiny_pipeline(sampling=Denoising(steps=10))
    given = {"strength": 0.5, "seed": 3}
    plain = pipeline.vary((HUM, RATE), **given)  # type: ignore[arg-type]
    other = torch.linspace(-0.5, 0.5, 300)[None]
    mixed = pipeline.vary((HUM, RATE), towards=(other, RATE), **given)  # type: ignore[arg-type]
    assert mixed.samples.shape == HUM.shape
    assert not torch.allclose(mixed.samples, plain.samples)
    padded = torch.nn.functional.pad(other, (0, 100))
    for same in (padded, torch.nn.functional.pad(other, (0, 500))):
        again = pipeline.vary((HUM, RATE), towards=(same, RATE), share=0.5, **given)  # type: ignore[arg-type]
        assert torch.equal(again.samples, mixed.samples)
    assert mixed.settings["towards"] == "AUDIO"
    none = pipeline.vary((HUM, RATE), towards=(other, RATE), share=0.0, **given)  # type: ignore[arg-type]
    torch.testing.assert_close(none.samples, plain.samples)


def test_a_loop_leads_to_its_beginning() -> None:
    stage = gaussian_stage(correlation=0.95, window_frames=64, steps=30)
    joints = {
        loop: torch.stack([made(stage, 32, seed=seed, loop=loop)[:, [-1, 0]] for seed in range(30)])
        for loop in (True, False)
    }
    correlation = {
        loop: float(((x - MEAN)[..., 0] * (x - MEAN)[..., 1]).mean() / SPREAD**2)
        for loop, x in joints.items()
    }
    assert correlation[True] > 0.7
    assert correlation[False] < 0.45


def test_a_loop_is_one_clip_in_generate_and_stream() -> None:
    pipeline = tiny_pipeline()
    clip = pipeline.generate("rain", duration=0.039, seed=3, loop=True)
    assert clip.samples.shape == (1, round(0.039 * RATE))
    pieces = list(pipeline.stream("rain", duration=0.039, seed=3, loop=True))
    assert torch.equal(torch.cat(pieces, dim=1), clip.samples)
    both = pipeline.generate(["wind", "rain"], duration=[0.02, 0.039], seed=[1, 3], loop=True)
    assert torch.equal(both[1].samples, clip.samples)
    assert not torch.equal(pipeline.generate("rain", duration=0.039, seed=3).samples, clip.samples)


def test_the_joint_of_a_loop_is_like_any_other_place_of_it() -> None:
    """Also where the frames last longer than the loop, so that its end is faded."""
    P = 8000
    times = torch.arange(P) / P
    tones = sum(torch.sin(2 * math.pi * k * times + k) for k in (40, 61, 97))
    loop = 0.2 * tones[None]
    usual = float((loop - loop.roll(1, dims=1)).abs().max())
    for N in (P, P - 300, P - 640):
        cut = shortened(loop, N, PLAIN_RATE)
        assert cut.shape == (1, N)
        assert float((cut[:, 0] - cut[:, -1]).abs()) <= 1.1 * usual


def test_a_loop_has_the_target_level_wherever_it_begins() -> None:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, 2 * PLAIN_RATE, generator=generator)
    loop = noise * torch.linspace(0.02, 2.0, noise.shape[1])
    level = levelled(loop, PLAIN_RATE)
    assert float(level.abs().max()) <= 10 ** (-1 / 20)
    shift = 12_345
    rolled = levelled(loop.roll(shift, dims=1), PLAIN_RATE)
    torch.testing.assert_close(rolled, level.roll(shift, dims=1), atol=0.02, rtol=0.0)
    measure = Leveller(PLAIN_RATE, num_channels=1)
    assert abs(measure.gain_of(level)) < 1.0  # nothing left to do
    assert TARGET == -16.0
    silence = torch.zeros(1, PLAIN_RATE)
    assert torch.equal(levelled(silence, PLAIN_RATE), silence)


def test_what_a_model_cannot_do_is_refused() -> None:
    pipeline = AudioPipeline(Model([tiny_stage()], Renderer()))
    with pytest.raises(ValueError, match=r"A loop can be at most 0\.04 seconds long .* got 0\.05"):
        pipeline.generate(duration=0.05, loop=True)
    for strength in (0, 1.5, -0.1, "much", None):
        with pytest.raises(ValueError, match="strength must be above 0 and at most 1, got"):
            pipeline.vary((HUM, RATE), strength=strength)  # type: ignore[arg-type]
    for share in (-0.1, 1.5, "half"):
        with pytest.raises(ValueError, match="share must be from 0 to 1, got"):
            pipeline.vary((HUM, RATE), towards=(HUM, RATE), share=share)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="share has no effect without towards"):
        pipeline.vary((HUM, RATE), share=0.3)
    with pytest.raises(ValueError, match="makes one clip, so towards must not be a list"):
        pipeline.vary((HUM, RATE), towards=["a.wav", "b.wav"])  # type: ignore[arg-type]
    tokens = lm_audio.load(device="cpu")
    sound: tuple[Tensor, int] = (HUM.repeat(1, 10), 16_000)
    with pytest.raises(ValueError, match="This model cannot vary audio"):
        tokens.vary(sound)
    with pytest.raises(ValueError, match="This model cannot make loops"):
        tokens.generate("rain", loop=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'loop'"):
        pipeline.continue_from((HUM, RATE), duration=0.01, loop=True)  # type: ignore[call-overload]
