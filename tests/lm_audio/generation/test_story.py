"""Stories: each window follows the prompt of its time, and nothing else changes."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import lm_audio
from lm_audio.generation.story import Story, is_story, parse
from lm_audio.generation.track import Track, unknown_values
from lm_audio.networks.condition import Fused
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising
from tests.lm_audio.generation.test_diffusion_stage import TinyNetwork, made, tiny_stage
from tests.lm_audio.generation.test_direct_stage import pipeline as led_pipeline
from tests.lm_audio.tracks_only import finish

STORY = [(0.0, "rain"), (2.5, "a dog barking")]


@pytest.fixture(scope="module")
def default() -> AudioPipeline:
    return lm_audio.load(device="cpu")


def test_parts_hold_from_their_times() -> None:
    story = Story([(0, "a"), (1.5, "b"), (4.0, "c")])
    rate = Fraction(50)
    for frame, part, following in (
        (0, 0, 75),
        (74, 0, 75),
        (75, 1, 200),
        (199, 1, 200),
        (200, 2, None),
        (9999, 2, None),
    ):
        assert story.part_at(frame, rate) == part
        assert story.next_start(frame, rate) == following
    assert parse(str(story)) == story == parse(" 0:a ;1.5: b;4 :c; ")
    assert is_story(list(story.parts))
    assert not any(map(is_story, (["a", "b"], [], "a", [(0.0, 1)], [("0", "a")], None)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("calm", r'written as "0: calm piano; 15: a storm breaks" .* got \'calm\''),
        ("0: a; x: b", "got 'x: b'"),
        ("0: a; 3:", "got '3:'"),
        ("1: a", r"must start at 0 and increase, got \[1.0\]"),
        ("0: a; 3: b; 3: c", r"must start at 0 and increase, got \[0.0, 3.0, 3.0\]"),
        ("0: a; inf: b", "must be finite"),
        ("", r"must start at 0 and increase, got \[\]"),
    ],
)
def test_a_wrong_story_gets_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_each_window_of_a_diffusion_stage_sees_the_prompt_of_its_time() -> None:
    seen: list[tuple[int, Tensor]] = []

    class Recording(TinyNetwork):
        def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
            assert condition.sum is not None
            seen.append((x.shape[2], condition.sum))
            return super().forward(x, times, condition)

    stage = tiny_stage(
        network=Recording(12).requires_grad_(False),
        sampling=Denoising(steps=1, solver="euler", guidance_scale=1.0),
    )
    story = Story([(0, "rain"), (0.05, "wind"), (0.06, "rain")])  # frames 0, 25 and 30
    made(stage, 50, conditions={"text": story})
    rain, wind = (stage.conditioners({"text": [text]}).sum for text in ("rain", "wind"))
    # Windows of 20 frames that begin at multiples of 14, cut where a part ends.
    schedule = [(20, rain), (11, rain), (16, wind), (20, rain), (20, rain), (8, rain)]
    assert [length for length, _ in seen] == [length for length, _ in schedule]
    for (_, found), (_, expected) in zip(seen, schedule, strict=True):
        assert torch.equal(found, expected)  # type: ignore[arg-type]


def test_later_parts_lead_the_source_too() -> None:
    model = led_pipeline(sampling=Denoising(steps=2, guidance_scale=1.0), overlap_frames=0)
    told = model.generate([(0.0, "rain"), (0.04, "snow")], duration=0.08, seed=3)
    rain, snow = (model.generate(text, duration=0.08, seed=3) for text in ("rain", "snow"))
    values = [clip.stage_values["latents"] for clip in (told, rain, snow)]
    assert torch.equal(values[0][:, :20], values[1][:, :20])
    assert torch.equal(values[0][:, 20:], values[2][:, 20:])


def test_a_token_model_tells_a_story(default: AudioPipeline) -> None:
    told = default.generate(STORY, duration=6.0, seed=3)
    assert told.samples.shape == (1, 6 * default.sample_rate)
    assert told.prompt == "0: rain; 2.5: a dog barking"
    rain = default.generate("rain", duration=6.0, seed=3)
    for name, stage in default.stages.items():
        part = round(2.5 * stage.makes.rate)
        values, before = told.stage_values[name], rain.stage_values[name]
        led = 0 if name == "semantic" else 20  # frames that look ahead at semantic tokens
        assert torch.equal(values[:, : part - led], before[:, : part - led])
        assert not torch.equal(values[:, part:], before[:, part:])
    semantic = default.stages["semantic"]
    values = unknown_values(
        semantic.makes, told.stage_values["semantic"].shape[1], torch.device("cpu")
    )
    part = round(2.5 * semantic.makes.rate)
    values[:, :part] = told.stage_values["semantic"][:, :part]
    track = Track(
        values=values, seed=3, sampling=semantic.sampling, conditions={"text": "a dog barking"}
    )
    finish([semantic], [track])
    assert torch.equal(track.values, told.stage_values["semantic"])  # as if continued


def test_a_story_is_the_same_in_a_batch_and_in_pieces(default: AudioPipeline) -> None:
    prompts: list[Any] = ["rain", STORY]
    clips = default.generate(prompts, duration=[1.0, 4.0], seed=[1, 2])
    alone = default.generate(STORY, duration=4.0, seed=2)
    assert torch.equal(clips[1].samples, alone.samples)
    pieces = list(default.stream(STORY, duration=4.0, seed=2))
    assert torch.equal(torch.cat(pieces, dim=1), alone.samples)
    prompt = 0.1 * torch.randn(1, default.sample_rate, generator=torch.Generator().manual_seed(1))
    longer = default.continue_from(
        (prompt, default.sample_rate), duration=3.0, text=[(0.0, "rain"), (1.0, "wind")], seed=2
    )
    assert torch.equal(longer.samples[:, : prompt.shape[1]], prompt)
    assert longer.duration == 4.0


def test_a_story_that_no_model_can_follow_is_refused(default: AudioPipeline) -> None:
    with pytest.raises(ValueError, match=r"must start at 0 and increase, got \[1.0\]"):
        default.generate([(1.0, "rain")], duration=1.0)
    with pytest.raises(ValueError, match="A text prompt must be a string, got"):
        default.generate("rain", duration=1.0, negative=STORY)  # type: ignore[call-overload]
