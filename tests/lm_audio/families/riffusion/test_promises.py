"""What every family promises: the same clip in any company, exact lengths, kept prompts, loops."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.spectrogram_image import (
    USUAL_MAXIMUM,
    ImageSettings,
    from_image,
    image_magnitudes,
    mel_magnitudes,
)
from lm_audio.cli import main
from lm_audio.origin import command, read_origin
from lm_audio.pipeline import AudioPipeline
from lm_audio.renderers.image_latents import ImageRenderer
from lm_audio.sampling import Denoising

RATE, HOP, WINDOW = 1600, 32, 12  # a window lasts 0.24 s
SAMPLING = Denoising(steps=3, guidance_scale=7.0)
LONG = 0.7  # seconds: four windows


@pytest.fixture(scope="module")
def model(folder: Path) -> AudioPipeline:
    return lm_audio.load(folder)


def clip(model: AudioPipeline, text: Any = "funky synth solo", **settings: Any) -> Tensor:
    given = {"duration": 0.24, "seed": 5, "sampling": SAMPLING} | settings
    return model.generate(text, **given).samples


def tone(seconds: float) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return 0.3 * torch.sin(2 * torch.pi * 100 * time)[None]


@pytest.mark.parametrize("duration", [1 / RATE, 0.1001, 0.24, 0.2407, LONG])
def test_durations_are_exact(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration)
    assert made.shape == (1, round(duration * RATE))
    assert made.isfinite().all()


def test_a_clip_is_the_same_alone_and_in_any_batch(model: AudioPipeline) -> None:
    alone = clip(model, "rain on tin", duration=LONG, seed=7)
    batch = model.generate(
        ["jazz", "rain on tin", None, "low", "rain on tin"],
        duration=[0.1, LONG, 0.24, LONG, LONG],
        seed=[1, 7, 3, 7, 8],
        sampling=SAMPLING,
    )
    assert torch.equal(batch[1].samples, alone)
    assert not torch.equal(batch[3].samples, alone)  # another prompt
    assert not torch.equal(batch[4].samples, alone)  # another seed
    for text, duration, seed, made in zip(
        ("jazz", None), (0.1, 0.24), (1, 3), (batch[0], batch[2]), strict=True
    ):
        assert torch.equal(made.samples, clip(model, text, duration=duration, seed=seed))


@pytest.mark.parametrize("duration", [0.1, 0.24, LONG, 4.0])
def test_a_stream_is_the_clip_in_pieces(model: AudioPipeline, duration: float) -> None:
    quick = Denoising(steps=1, guidance_scale=1.0)
    pieces = list(model.stream("rain", duration=duration, seed=2, sampling=quick))
    whole = clip(model, "rain", duration=duration, seed=2, sampling=quick)
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert len(pieces) > 1 or duration < 4


def test_a_longer_clip_begins_with_the_windows_of_the_shorter(model: AudioPipeline) -> None:
    given: dict[str, Any] = {"seed": 4, "sampling": SAMPLING}
    short, long = (
        model.generate("rain", duration=seconds, **given).stage_values["diffusion"]
        for seconds in (0.24, LONG)
    )
    assert torch.equal(long[:, :WINDOW], short)


def test_a_negative_prompt_and_the_scale_change_the_clip(model: AudioPipeline) -> None:
    plain = clip(model)
    assert not torch.allclose(clip(model, negative="low quality"), plain)
    assert torch.equal(clip(model, negative=""), plain)  # the empty text, as in training
    free = Denoising(steps=3, guidance_scale=1.0)
    assert not torch.allclose(clip(model, sampling=free), plain)
    assert torch.equal(clip(model, None), clip(model, "", sampling=free))


def test_a_continuation_keeps_the_samples_of_the_prompt(model: AudioPipeline) -> None:
    prompt = tone(0.4)
    made = model.continue_from((prompt, RATE), duration=0.4, seed=3, sampling=SAMPLING)
    assert made.samples.shape == (1, 1280)
    assert torch.equal(made.samples[:, :640], prompt)
    assert made.samples[:, 640:].abs().max() > 0.01


def test_an_inpainted_span_leaves_all_other_samples(model: AudioPipeline) -> None:
    whole = tone(0.6)
    made = model.inpaint(
        (whole, RATE), start=0.2, end=0.3, text="rain", seed=3, sampling=SAMPLING
    ).samples
    assert torch.equal(made[:, :320], whole[:, :320])
    assert torch.equal(made[:, 480:], whole[:, 480:])
    assert not torch.allclose(made[:, 320:480], whole[:, 320:480], atol=0.01)


def test_a_weaker_variation_is_nearer_to_the_original(model: AudioPipeline) -> None:
    renderer = model.renderer
    assert renderer.encoder is not None
    original = renderer.encoder.encode(tone(0.24))
    distances = []
    for strength in (0.1, 0.5, 1.0):
        sampling = Denoising(steps=10, guidance_scale=1.0)
        made = model.vary((tone(0.24), RATE), strength=strength, seed=1, sampling=sampling)
        assert made.samples.shape == (1, 384)
        distances.append(float((made.stage_values["diffusion"] - original).norm()))
    assert distances == sorted(distances)
    assert distances[0] < 0.7 * distances[2]


def test_a_loop_has_the_spectrum_of_its_image_at_the_joint_too(model: AudioPipeline) -> None:
    """As well as at other places; with phases that know nothing of the joint, it would be worse."""
    renderer = model.renderer
    assert isinstance(renderer, ImageRenderer)
    joint, straight = [], []
    for seed in range(8):
        found = model.generate(
            "jazz", duration=0.24, seed=seed, loop=True, raw=True, sampling=SAMPLING
        )
        values = found.stage_values["diffusion"]
        around = torch.arange(-8, WINDOW + 8) % WINDOW
        image = renderer.to_image(values[:, around])[..., 16:40]
        mel = from_image(image, renderer.image, maximum=USUAL_MAXIMUM)
        magnitudes = image_magnitudes(image, renderer.image, maximum=USUAL_MAXIMUM)
        joint.append(misfit_at_joint(found.samples, mel, renderer.image))
        plain = renderer.image.griffin_lim.whole(magnitudes)
        straight.append(misfit_at_joint(plain, mel, renderer.image))
    assert sum(joint) / 8 < 1.1
    assert sum(straight) > 1.05 * sum(joint)


def misfit_at_joint(loop: Tensor, mel: Tensor, settings: ImageSettings) -> float:
    """The error of the spectrum within half a window of the joint, over that elsewhere."""
    T = mel.shape[2]
    found = mel_magnitudes(loop.repeat(1, 3), settings)[..., T : 2 * T]
    errors = (found - mel).norm(dim=(0, 1))
    return float(torch.cat([errors[:4], errors[-4:]]).mean() / errors[4:-4].mean())


@pytest.mark.parametrize("duration", [0.24, 0.2, 0.1231])
def test_a_loop_has_the_asked_length(model: AudioPipeline, duration: float) -> None:
    made = clip(model, duration=duration, loop=True)
    assert made.shape == (1, round(duration * RATE))
    assert made.isfinite().all()


def test_a_blend_and_a_story_are_followed(model: AudioPipeline) -> None:
    ends = [clip(model, text) for text in ("rain on tin", "jazz")]
    assert torch.equal(clip(model, {"rain on tin": 1}), ends[0])
    blend = clip(model, {"rain on tin": 1, "jazz": 1})
    assert not any(torch.allclose(blend, end, atol=1e-3) for end in ends)
    told = clip(model, [(0.0, "rain on tin"), (0.24, "jazz")], duration=0.48)
    assert told.shape == (1, 768)


TURNING = [
    (0.0, "rain on tin", {"seed": 3}),
    (0.5, "jazz", {"over": 0.3, "seed": 4, "guidance_scale": 3.0}),
    (0.9, "funky solo", {"over": 0.4, "seed": 5}),
]


def test_a_story_that_turns_is_the_same_in_any_company(
    model: AudioPipeline, folder: Path, tmp_path: Path
) -> None:
    alone = clip(model, TURNING, duration=1.2)
    pieces = list(model.stream(TURNING, duration=1.2, seed=5, sampling=SAMPLING))  # type: ignore[arg-type]
    assert torch.equal(torch.cat(pieces, dim=1), alone)
    prompts: list[Any] = ["jazz", TURNING]
    batch = model.generate(prompts, duration=[0.24, 1.2], seed=[1, 5], sampling=SAMPLING)
    assert torch.equal(batch[1].samples, alone)
    cut = [part[:2] for part in TURNING]
    assert not torch.allclose(clip(model, cut, duration=1.2), alone)
    story = "0 seed=3: rain on tin; 0.5 over=0.3 seed=4 guidance_scale=3: jazz; "
    story += "0.9 over=0.4 seed=5: funky solo"
    assert batch[1].prompt == story
    options = ["--duration", "1.2", "--seed", "5", "--steps", "3", "--model", str(folder), "-q"]
    main(["generate", "--story", story, *options, "-o", str(tmp_path / "x.wav")])
    batch[1].save(tmp_path / "y.wav")
    files = (tmp_path / "x.wav", tmp_path / "y.wav")
    assert torch.equal(*(read_audio(path).samples for path in files))
    assert story in str(command(read_origin(files[1])))


def test_the_parts_of_a_variation_have_their_strengths(model: AudioPipeline) -> None:
    sound = (tone(0.96), RATE)
    sampling = Denoising(steps=10, guidance_scale=1.0)
    told: Any = [(0.0, "jazz", {"strength": 0.1}), (0.48, "jazz", {"strength": 1.0})]
    varied = model.vary(sound, text=told, seed=1, sampling=sampling)
    assert varied.samples.shape == (1, 1536)
    original = model.renderer.encoder.encode(sound[0])  # type: ignore[union-attr]
    away = (varied.stage_values["diffusion"] - original).norm(dim=0)
    assert float(away[:24].mean()) < 0.7 * float(away[24:].mean())
    with pytest.raises(ValueError, match="has no effect without audio to vary"):
        clip(model, told)


@pytest.mark.slow
def test_a_long_story_streams_in_constant_memory(folder: Path) -> None:
    """Ten minutes in a process of its own; growth is measured after the first half minute."""
    done = subprocess.run(
        [sys.executable, "-c", LONG_STORY, str(folder)], capture_output=True, text=True, check=True
    )
    num_samples, grown = done.stdout.split()
    assert int(num_samples) == 600 * RATE
    assert float(grown) < 20  # MB


LONG_STORY = """
import sys
import lm_audio

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

words = ("rain", "jazz", "funky synth solo", "low")
story = [(0.0, "rain", {"seed": 0})]
story += [(10.0 * i, words[i % 4], {"over": 10.0, "seed": i}) for i in range(1, 60)]
model = lm_audio.load(sys.argv[1])
sampling = lm_audio.Denoising(steps=1, guidance_scale=1.0)
made, before = 0, None
for piece in model.stream(story, duration=600.0, seed=1, sampling=sampling):
    made += piece.shape[1]
    if before is None and made > 30 * model.sample_rate:
        before = resident()
print(made, resident() - before)
"""


def test_the_command_line_writes_the_image_of_the_clip(
    model: AudioPipeline, folder: Path, tmp_path: Path
) -> None:
    options = ["--duration", "0.2", "--seed", "5", "--steps", "3", "--model", str(folder), "-q"]
    main(["generate", "rain on tin", *options, "-o", str(tmp_path / "line.png")])
    made = model.generate("rain on tin", duration=0.2, seed=5, sampling=SAMPLING)
    made.save(tmp_path / "python.png")
    lines, python = (read_audio(tmp_path / f"{name}.png") for name in ("line", "python"))
    assert torch.equal(lines.samples, python.samples)
    assert lines.samples.shape == (1, 8820)
    main(["continue", str(tmp_path / "line.png"), *options, "-o", str(tmp_path / "more.wav")])
    assert read_audio(tmp_path / "more.wav").samples.shape == (1, 640)


def test_a_stereo_model_makes_both_channels(
    parts: dict[str, Any], write_parts: Any, tmp_path: Path
) -> None:
    image = {"sample_rate": 1600, "num_mels": 16, "high": 700, "stereo": True}
    stereo = lm_audio.load(write_parts(parts, tmp_path, image=image))
    made = clip(stereo)
    assert made.shape == (2, 384)
    assert not torch.allclose(made[0], made[1])
    both = torch.cat([tone(0.24), tone(0.24).flip(1)])
    more = stereo.continue_from((both, RATE), duration=0.1, seed=1, sampling=SAMPLING)
    assert torch.equal(more.samples[:, :384], both)
