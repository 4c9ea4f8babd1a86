"""What every family promises: the same clip in any company, exact lengths, kept prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

RATE, FRAME, WINDOW = 16_000, 32, 12
SAMPLING = Denoising(steps=3, guidance_scale=3.0)
ONE, SHORT, LONG = (FRAME * frames / RATE for frames in (WINDOW, 5, 31))  # LONG: three windows


@pytest.fixture(scope="module", params=[4, 9])
def model(
    request: pytest.FixtureRequest,
    make_parts: Callable[..., dict[str, Any]],
    write_parts: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> AudioPipeline:
    """A model, and one for inpainting."""
    parts = make_parts(in_channels=request.param)
    return lm_audio.load(write_parts(parts, tmp_path_factory.mktemp("model")))


def clip(model: AudioPipeline, text: Any = "a dog barks", **settings: Any) -> Tensor:
    given = {"duration": ONE, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(text, **given).samples


def tone(num_samples: int) -> Tensor:
    time = torch.arange(num_samples) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 1000 * time)[None]


@pytest.mark.parametrize("num_samples", [1, 100, 384, 386, 992])
def test_durations_are_exact(model: AudioPipeline, num_samples: int) -> None:
    made = clip(model, duration=num_samples / RATE)
    assert made.shape == (1, num_samples)
    assert made.isfinite().all()
    assert made.abs().max() > 0.01


def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline) -> None:
    alone = clip(model, "rain on tin", duration=LONG, seed=7)
    batch = model.generate(
        ["a dog barks", "rain on tin", None, "wind", "rain on tin"],
        duration=[SHORT, LONG, ONE, LONG, LONG],
        seed=[1, 7, 3, 7, 8],
        sampling=SAMPLING,
    )
    assert torch.equal(batch[1].samples, alone)
    assert not torch.equal(batch[3].samples, alone)  # another prompt
    assert not torch.equal(batch[4].samples, alone)  # another seed
    for text, duration, seed, made in zip(
        ("a dog barks", None), (SHORT, ONE), (1, 3), (batch[0], batch[2]), strict=True
    ):
        assert torch.equal(made.samples, clip(model, text, duration=duration, seed=seed))


@pytest.mark.parametrize("duration", [SHORT, ONE, LONG])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    pieces = list(model.stream("rain", duration=duration, seed=2, sampling=SAMPLING))
    whole = clip(model, "rain", duration=duration, seed=2)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_longer_clip_begins_with_the_shorter_one(model: AudioPipeline) -> None:
    given: dict[str, Any] = {"seed": 2, "sampling": SAMPLING, "raw": True}
    short, long = (model.generate("rain", duration=t, **given) for t in (ONE, LONG))
    latents = [one.stage_values["diffusion"][:, :WINDOW] for one in (short, long)]
    assert torch.equal(*latents)
    kept = FRAME * (WINDOW - 4)  # without the cross-fade and the view of the vocoder
    torch.testing.assert_close(long.samples[:, :kept], short.samples[:, :kept], atol=1e-5, rtol=0)


def test_a_negative_prompt_and_the_scale_change_the_clip(model: AudioPipeline) -> None:
    plain = clip(model)
    assert not torch.allclose(clip(model, negative="low quality"), plain)
    assert torch.equal(clip(model, negative=""), plain)  # the empty text, as in training
    assert not torch.allclose(clip(model, sampling=Denoising(steps=3, guidance_scale=6.0)), plain)
    assert not torch.allclose(clip(model, sampling=Denoising(steps=3, guidance_scale=1.0)), plain)


def test_a_clip_without_a_prompt_is_that_of_the_empty_text_without_guidance(
    model: AudioPipeline,
) -> None:
    free = Denoising(steps=3, guidance_scale=1.0)
    assert torch.equal(clip(model, None), clip(model, "", sampling=free))


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tone(400)
    made = model.continue_from((prompt, RATE), duration=0.025, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (1, 800)
    assert torch.equal(made.samples[:, :400], prompt)
    assert made.samples[:, 400:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tone(600)
    made = model.inpaint(
        (whole, RATE), start=200 / RATE, end=330 / RATE, text="rain", seed=3, sampling=SAMPLING
    ).samples
    assert torch.equal(made[:, :200], whole[:, :200])
    assert torch.equal(made[:, 330:], whole[:, 330:])
    assert not torch.allclose(made[:, 200:330], whole[:, 200:330], atol=0.01)


def test_a_variation_and_a_loop_have_the_asked_length(model: AudioPipeline) -> None:
    varied = model.vary((tone(320), RATE), strength=0.5, text="rain", seed=1, sampling=SAMPLING)
    assert varied.samples.shape == (1, 320)
    assert clip(model, duration=8 * FRAME / RATE, loop=True).shape == (1, 8 * FRAME)


def test_a_story_changes_its_prompt(model: AudioPipeline) -> None:
    story = [(0.0, "rain"), (ONE, "wind")]
    made = clip(model, story, duration=LONG)
    first = clip(model, "rain", duration=LONG)
    assert made.shape == first.shape
    assert not torch.allclose(made[:, 600:], first[:, 600:], atol=1e-3)
    pieces = list(model.stream(story, duration=LONG, seed=5, sampling=SAMPLING))
    assert torch.equal(torch.cat(pieces, dim=1), made)


@pytest.mark.slow
def test_a_long_story_streams_in_constant_memory(model: AudioPipeline) -> None:
    """Two minutes, with a transition every five seconds; growth after the first half minute."""
    words = ("rain", "wind", "a dog barks", "waves")
    story: list[Any] = [(0.0, "rain", {"seed": 0})]
    story += [(5.0 * i, words[i % 4], {"over": 5.0, "seed": i}) for i in range(1, 24)]
    quick = Denoising(steps=1, guidance_scale=1.0)
    num_samples, before = 0, None
    for piece in model.stream(story, duration=120.0, seed=1, sampling=quick):
        num_samples += piece.shape[1]
        if before is None and num_samples > 30 * RATE:
            before = resident()
    assert num_samples == 120 * RATE
    assert before is not None
    assert resident() - before < 20


def resident() -> float:
    """The memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def test_a_cancelled_stream_leaves_the_model_as_it_was(model: AudioPipeline) -> None:
    expected = clip(model)
    stream = model.stream("rain", duration=1.0, seed=2, sampling=SAMPLING)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert torch.equal(clip(model), expected)


def test_a_long_text_is_cut_with_a_warning(model: AudioPipeline) -> None:
    with pytest.warns(UserWarning, match="truncated to 77, the limit of its encoder"):
        clip(model, "rain " * 90)


def test_bad_prompts_are_refused(model: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="This model has no condition 'melody'"):
        clip(model, conditions={"melody": "x"})
    with pytest.raises(ValueError, match="steps must be at most 1000 for this model"):
        clip(model, sampling=Denoising(steps=1001))
