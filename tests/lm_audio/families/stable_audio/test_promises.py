"""What every family promises: the same clip in any company, exact lengths, kept prompts."""

import itertools
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

RATE, HOP = 1600, 8
SAMPLING = Denoising(steps=3, solver="dpm++2m-sde", guidance_scale=3.0)
WINDOW = 0.08  # seconds, 16 frames
LONG = 0.231  # 47 frames: windows that keep 4 frames of the one before


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def clip(model: AudioPipeline, text: Any = "a dog barks", **settings: Any) -> Tensor:
    given = {"duration": WINDOW, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(text, **given).samples


def tones(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.stack([torch.sin(2 * torch.pi * f * time) for f in (100, 150)])


@pytest.mark.parametrize("duration", [1 / RATE, 0.0501, WINDOW, 0.0807, LONG])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (2, round(duration * RATE))
    assert made.isfinite().all()
    assert made.abs().max() > 0.01


@pytest.mark.parametrize("solver", ["dpm++2m-sde", "dpm++2m", "euler", "heun"])
def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline, solver: Any) -> None:
    sampling = Denoising(steps=3, solver=solver, guidance_scale=3.0)
    alone = clip(model, "rain on tin", duration=LONG, seed=7, sampling=sampling)
    batch = model.generate(
        ["a dog barks", "rain on tin", None, "wind", "rain on tin"],
        duration=[0.05, LONG, WINDOW, LONG, LONG],
        seed=[1, 7, 3, 7, 8],
        sampling=sampling,
    )
    assert torch.equal(batch[1].samples, alone)
    assert not torch.equal(batch[3].samples, alone)  # another prompt
    assert not torch.equal(batch[4].samples, alone)  # another seed
    for text, duration, seed, made in zip(
        ("a dog barks", None), (0.05, WINDOW), (1, 3), (batch[0], batch[2]), strict=True
    ):
        again = clip(model, text, duration=duration, seed=seed, sampling=sampling)
        assert torch.equal(made.samples, again)


@pytest.mark.parametrize("duration", [0.05, WINDOW, LONG])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    pieces = list(model.stream("rain", duration=duration, seed=2, sampling=SAMPLING))
    whole = clip(model, "rain", duration=duration, seed=2)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_longer_clip_starts_arriving_before_its_end(model: AudioPipeline) -> None:
    quick = Denoising(steps=1, guidance_scale=1.0)
    pieces = list(model.stream("rain", duration=1.5, seed=2, sampling=quick, raw=True))
    assert len(pieces) > 1


def test_a_stream_that_is_dropped_leaves_the_model_as_it_was(model: AudioPipeline) -> None:
    before = clip(model)
    stream = model.stream("rain", duration=1.5, seed=2, sampling=SAMPLING, raw=True)
    list(itertools.islice(stream, 1))
    stream.close()
    assert torch.equal(clip(model), before)


def test_the_duration_is_a_condition_of_every_window(model: AudioPipeline) -> None:
    """Only the duration differs for the first window: its noise and its text do not."""
    sampling = Denoising(steps=3, guidance_scale=1.0)
    short, longer, longest = (
        model.generate("rain", duration=d, seed=2, sampling=sampling, raw=True)
        for d in (WINDOW, LONG, 1.9)
    )
    first = [one.stage_values["diffusion"][:, :16] for one in (short, longer, longest)]
    assert not torch.allclose(first[0], first[1], atol=1e-3)
    assert not torch.allclose(first[1], first[2], atol=1e-3)
    # without that condition, the longer clip begins with the shorter
    (stage,) = model.model.stages
    numbers = [stage.conditioners[name] for name in stage.timing]  # type: ignore[attr-defined]
    highs = [number.high for number in numbers]
    try:
        for number in numbers:
            number.high = 1e9
        same = [
            model.generate("rain", duration=d, seed=2, sampling=sampling).stage_values["diffusion"]
            for d in (WINDOW, LONG)
        ]
    finally:
        for number, high in zip(numbers, highs, strict=True):
            number.high = high
    torch.testing.assert_close(same[0], same[1][:, :16], atol=1e-5, rtol=0)


def test_a_negative_prompt_and_the_scale_change_the_clip(model: AudioPipeline) -> None:
    plain = clip(model)
    assert not torch.allclose(clip(model, negative="low quality"), plain)
    assert not torch.allclose(clip(model, negative=""), plain)  # a text, unlike none
    stronger = Denoising(steps=3, solver="dpm++2m-sde", guidance_scale=6.0)
    assert not torch.allclose(clip(model, sampling=stronger), plain)


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tones(0.2)
    made = model.continue_from((prompt, RATE), duration=0.2, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (2, 640)
    assert torch.equal(made.samples[:, :320], prompt)
    assert made.samples[:, 320:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tones(0.3)
    made = model.inpaint(
        (whole, RATE), start=0.1, end=0.15, text="rain", seed=3, sampling=SAMPLING
    ).samples
    assert torch.equal(made[:, :160], whole[:, :160])
    assert torch.equal(made[:, 240:], whole[:, 240:])
    assert not torch.allclose(made[:, 160:240], whole[:, 160:240], atol=0.01)


def test_parts_of_a_longer_recording_are_placed_in_it(
    model: AudioPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is near is read, but the network learns where that is."""
    (stage,) = model.model.stages
    assert isinstance(stage, DiffusionStage)
    seen: dict[str, list[float]] = {name: [] for name in stage.timing}
    for name, values in seen.items():
        conditioner = stage.conditioners[name]
        whole = conditioner._embed
        monkeypatch.setattr(
            conditioner, "_embed", lambda x, f=whole, v=values: v.append(round(x, 4)) or f(x)
        )
    given: dict[str, Any] = {"seed": 3, "sampling": SAMPLING}
    model.inpaint((tones(1.0), RATE), start=0.7, end=0.72, text="rain", **given)
    assert set(seen["seconds_total"]) == {1.0}
    assert 0.5 < min(seen["seconds_start"]) <= 0.7
    for values in seen.values():
        values.clear()
    model.continue_from((tones(1.0), RATE), duration=0.2, **given)
    assert set(seen["seconds_total"]) == {1.2}
    assert 0.9 < min(seen["seconds_start"]) < 1.0


def test_a_variation_is_the_closer_to_the_sound_the_weaker_it_is(model: AudioPipeline) -> None:
    sound = tones(0.2)
    sampling = Denoising(steps=20, guidance_scale=1.0)
    encoder = model.model.renderer.encoder
    assert encoder is not None
    original = encoder.encode(sound)
    distances = []
    for strength in (0.05, 0.5, 1.0):
        made = model.vary((sound, RATE), strength=strength, text="rain", seed=1, sampling=sampling)
        assert made.samples.shape == (2, 320)
        distances.append(float((made.stage_values["diffusion"] - original).norm()))
    assert distances[0] < 0.5 * distances[-1]


def test_a_loop_has_the_asked_length_and_no_seam(model: AudioPipeline) -> None:
    made = model.generate("rain", duration=WINDOW, seed=5, loop=True, sampling=SAMPLING, raw=True)
    assert made.samples.shape == (2, 128)
    latents = made.stage_values["diffusion"]
    renderer = model.model.renderer
    around = renderer.render(torch.cat([latents] * 3, dim=1))[:, 128:256]
    torch.testing.assert_close(made.samples, around, atol=1e-5, rtol=0)


def test_a_story_changes_the_prompt(model: AudioPipeline) -> None:
    story = [(0.0, "rain"), (0.1, "a dog barks")]
    made = clip(model, story, duration=LONG)
    same = clip(model, [(0.0, "rain"), (0.1, "wind")], duration=LONG)
    assert made.shape == (2, round(LONG * RATE))
    assert not torch.allclose(made[:, 200:], same[:, 200:], atol=1e-3)
    pieces = list(model.stream(story, duration=LONG, seed=5, sampling=SAMPLING))
    assert torch.equal(torch.cat(pieces, dim=1), made)


def test_a_blend_lies_between_its_prompts(model: AudioPipeline) -> None:
    rain, wind = clip(model, "rain"), clip(model, "wind")
    both = clip(model, {"rain": 0.5, "wind": 0.5})
    assert torch.equal(clip(model, {"rain": 1}), rain)
    assert not any(torch.allclose(both, end, atol=1e-3) for end in (rain, wind))


def test_settings_that_make_no_sense_are_refused(model: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="This model has no condition 'seconds_total'"):
        clip(model, conditions={"seconds_total": 3.0})
    with pytest.raises(ValueError, match="eta has no effect with the dpm\\+\\+2m-sde solver"):
        Denoising(solver="dpm++2m-sde", eta=0.5)
    with pytest.warns(UserWarning, match="truncated to 8, the limit of its encoder"):
        clip(model, "rain " * 20)


@pytest.mark.slow
def test_ten_minutes_take_constant_memory(
    make_parts: Any, write_parts: Any, tmp_path: Path
) -> None:
    model = lm_audio.load(write_parts(make_parts(transformer={"sample_size": 1024}), tmp_path))
    quick = Denoising(steps=1, guidance_scale=1.0)
    num_samples, after_a_minute, total = 0, 0, torch.zeros(())
    for piece in model.stream("rain", duration=600.0, seed=1, sampling=quick):
        num_samples += piece.shape[1]
        total += piece.square().sum()
        if not after_a_minute and num_samples > 60 * RATE:
            after_a_minute = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert num_samples == 600 * RATE
    assert total.isfinite()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - after_a_minute
    assert grown < 20 * 1024  # kB
