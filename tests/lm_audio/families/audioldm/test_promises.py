"""What every family promises: the same clip in any company, exact lengths, kept prompts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from lm_audio.cli import main
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising

RATE, HOP, WINDOW = 1600, 16, 12
SAMPLING = Denoising(steps=3, guidance_scale=3.5)
LONG = 0.31  # seconds: three windows of 0.12 s


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def clip(model: AudioPipeline, text: Any = "a dog barks", **settings: Any) -> Tensor:
    given = {"duration": 0.12, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(text, **given).samples


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 100 * time)[None]


@pytest.mark.parametrize("duration", [1 / RATE, 0.0501, 0.12, 0.1207, LONG])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (1, round(duration * RATE))
    assert made.isfinite().all()
    assert made.abs().max() > 0.01


def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline) -> None:
    alone = clip(model, "rain on tin", duration=LONG, seed=7)
    batch = model.generate(
        ["a dog barks", "rain on tin", None, "wind", "rain on tin"],
        duration=[0.05, LONG, 0.12, LONG, LONG],
        seed=[1, 7, 3, 7, 8],
        sampling=SAMPLING,
    )
    assert torch.equal(batch[1].samples, alone)
    assert not torch.equal(batch[3].samples, alone)  # another prompt
    assert not torch.equal(batch[4].samples, alone)  # another seed
    for text, duration, seed, made in zip(
        ("a dog barks", None), (0.05, 0.12), (1, 3), (batch[0], batch[2]), strict=True
    ):
        assert torch.equal(made.samples, clip(model, text, duration=duration, seed=seed))


@pytest.mark.parametrize("duration", [0.05, 0.12, LONG])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    pieces = list(model.stream("rain", duration=duration, seed=2, sampling=SAMPLING))
    whole = clip(model, "rain", duration=duration, seed=2)
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_longer_clip_starts_arriving_before_its_end(model: AudioPipeline) -> None:
    quick = Denoising(steps=1, guidance_scale=1.0)
    pieces = list(model.stream("rain", duration=1.5, seed=2, sampling=quick, raw=True))
    assert len(pieces) > 1


def test_a_negative_prompt_and_the_scale_change_the_clip(model: AudioPipeline) -> None:
    plain = clip(model)
    assert not torch.allclose(clip(model, negative="low quality"), plain)
    assert torch.equal(clip(model, negative=""), plain)  # the empty text, as in training
    stronger = Denoising(steps=3, guidance_scale=6.0)
    assert not torch.allclose(clip(model, sampling=stronger), plain)
    free = Denoising(steps=3, guidance_scale=1.0)
    assert not torch.allclose(clip(model, sampling=free), plain)


def test_a_clip_without_a_prompt_is_that_of_the_empty_text_without_guidance(
    model: AudioPipeline,
) -> None:
    free = Denoising(steps=3, guidance_scale=1.0)
    assert torch.equal(clip(model, None), clip(model, "", sampling=free))


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tone(0.2)
    made = model.continue_from((prompt, RATE), duration=0.2, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (1, 640)
    assert torch.equal(made.samples[:, :320], prompt)
    assert made.samples[:, 320:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tone(0.3)
    made = model.inpaint(
        (whole, RATE), start=0.1, end=0.15, text="rain", seed=3, sampling=SAMPLING
    ).samples
    assert torch.equal(made[:, :160], whole[:, :160])
    assert torch.equal(made[:, 240:], whole[:, 240:])
    assert not torch.allclose(made[:, 160:240], whole[:, 160:240], atol=0.01)


def test_a_variation_and_a_loop_have_the_asked_length(model: AudioPipeline) -> None:
    varied = model.vary((tone(0.2), RATE), strength=0.5, text="rain", seed=1, sampling=SAMPLING)
    assert varied.samples.shape == (1, 320)
    assert clip(model, duration=0.08, loop=True).shape == (1, 128)


def test_given_vectors_replace_the_language_of_audio(model: AudioPipeline) -> None:
    made = model.generate("a dog barks", duration=0.12, seed=5, sampling=SAMPLING)
    language = made.stage_values["audio_language"]
    assert language.shape == (16, 8)
    again = clip(model, tokens={"audio_language": language})
    assert torch.equal(again, made.samples)
    other = clip(model, tokens={"audio_language": -language})
    assert not torch.allclose(other, made.samples)
    with pytest.raises(ValueError, match=r"The audio_language stage needs vector \[16, 8\]"):
        clip(model, tokens={"audio_language": language[:, :7]})


def test_a_blend_lies_between_its_prompts(model: AudioPipeline) -> None:
    ends = [clip(model, text) for text in ("rain on tin", "wind")]
    given: dict[str, Any] = {"duration": 0.12, "seed": 5, "sampling": SAMPLING}
    made = model.generate({"rain on tin": 1, "wind": 1}, **given)
    assert torch.equal(clip(model, {"rain on tin": 1}), ends[0])
    assert not any(torch.allclose(made.samples, end, atol=1e-3) for end in ends)
    language = made.stage_values["audio_language"]
    rain, wind = (
        model.generate(text, **given).stage_values["audio_language"]
        for text in ("rain on tin", "wind")
    )
    torch.testing.assert_close(language, (rain + wind) / 2)
    tokens = {"audio_language": language}
    again = model.generate({"rain on tin": 1, "wind": 1}, tokens=tokens, **given)
    assert torch.equal(again.samples, made.samples)


def test_the_command_line_blends_as_python_does(
    model: AudioPipeline, folder: Path, tmp_path: Path
) -> None:
    options = ["--duration", "0.1", "--seed", "5", "--steps", "2", "--model", str(folder)]
    out = tmp_path / "line.wav"
    main(["generate", "--blend", "1: wind; 3: rain", *options, "-o", str(out), "-q"])
    sampling = Denoising(steps=2)
    made = model.generate({"rain": 3, "wind": 1}, duration=0.1, seed=5, sampling=sampling)
    made.save(tmp_path / "python.wav")
    files = (out, tmp_path / "python.wav")
    assert torch.equal(*(read_audio(path).samples for path in files))
    for path in files:
        assert " --blend '0.75: rain; 0.25: wind'" in str(command(read_origin(path)))


def test_settings_that_make_no_sense_are_refused(model: AudioPipeline) -> None:
    with pytest.raises(ValueError, match="Unknown solver 'plms'"):
        Denoising(solver="plms")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps must be"):
        Denoising(steps=0)
    with pytest.raises(ValueError, match="This model has no condition 'melody'"):
        clip(model, conditions={"melody": "x"})
    with pytest.raises(ValueError, match="steps must be at most 1000 for this model"):
        clip(model, sampling=Denoising(steps=1001))


def test_a_long_text_is_cut_with_a_warning(model: AudioPipeline) -> None:
    with pytest.warns(UserWarning, match="truncated to 20, the limit of its encoder"):
        clip(model, "rain " * 30)
