"""Stories whose parts turn into each other: text, noise, guidance and strength."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lm_audio
from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.interpolation import slerp_frames
from lm_audio.generation.story import Story, Turn, is_story, parse
from lm_audio.generation.track import Track, Variation, unknown_values
from lm_audio.networks.condition import Condition, Fused, between, stack
from lm_audio.sampling import Denoising, gaussians
from tests.lm_audio.generation.test_diffusion_stage import (
    TinyNetwork,
    made,
    tiny_pipeline,
    tiny_stage,
)

RATE = Fraction(500)  # of the tiny stage's frames


def test_slerp_is_the_formula_for_each_frame() -> None:
    a, b = torch.randn(16, 5), torch.randn(16, 5)
    b[:, 4] = 2 * a[:, 4]  # parallel: on a line
    shares = torch.tensor([0.0, 0.3, 0.5, 1.0, 0.25])
    found = slerp_frames(a, b, shares)
    for i, share in enumerate(shares.tolist()[:4]):
        u, v = a[:, i].double().numpy(), b[:, i].double().numpy()
        omega = math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        expected = (math.sin((1 - share) * omega) * u + math.sin(share * omega) * v) / math.sin(
            omega
        )
        np.testing.assert_allclose(found[:, i].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(found[:, 4], 1.25 * a[:, 4])
    assert torch.equal(found[:, 0], a[:, 0])
    assert torch.equal(slerp_frames(a, a, shares), a)


def test_noise_keeps_its_power_on_the_way() -> None:
    a, b = (gaussians(seed, "x", 0, 200, 64) for seed in (1, 2))
    halfway = torch.full((200,), 0.5)
    assert float(slerp_frames(a, b, halfway).var()) == pytest.approx(1.0, abs=0.05)
    assert float(torch.lerp(a, b, 0.5).var()) == pytest.approx(0.5, abs=0.05)


def test_settings_are_written_and_read() -> None:
    text = "0 seed=0: rain; 10 over=4 guidance_scale=5.5: wind; 20 over=2 strength=0.7: snow"
    story = parse(text)
    assert str(story) == text
    assert parse(str(story)) == story
    given: list[Any] = [
        (0.0, "rain", {"seed": 0}),
        (10.0, "wind", {"over": 4.0, "guidance_scale": 5.5}),
        (20, "snow", {"over": 2.0, "strength": 0.7}),
    ]
    assert Story(given) == story
    assert is_story(given)
    assert story.turns[0] == Turn(seed=0)
    assert not Story([(0, "rain"), (1, "wind")]).has_settings
    assert not is_story([(0.0, "rain", 3)])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0.0, "a"), (2.0, "b", {"over": 3.0})], "takes 3 s; it must not be longer than .* 2 s"),
        ([(0.0, "a", {"over": 1.0})], "transition to the part at 0 s takes 1 s"),
        ([(0.0, "a", {"speed": 1.0})], "has no setting 'speed'. It has: over, seed, guidance"),
        ([(0.0, "a", {"guidance_scale": 0.5})], "guidance_scale of a part .* at least 1, got 0.5"),
        ([(0.0, "a", {"strength": 2})], "at least 0.001 and at most 1, got 2"),
        ([(0.0, "a", {"seed": -1})], "seed"),
        ([(0.0, "a", {"over": "x"})], "over of a part of a story must be a number"),
    ],
)
def test_wrong_settings_get_one_sentence(parts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Story(parts)


def test_wrong_texts_get_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"has settings such as .* got 'over=x'"):
        parse("0: a; 2 over=x: b")
    with pytest.raises(ValueError, match="got '2 soon: b'"):
        parse("0: a; 2 soon: b")


def test_moments_follow_the_transitions() -> None:
    story = parse("0: a; 4 over=2: b; 6: c")
    seconds = {0.0: (0, 0.0), 2.0: (0, 0.0), 2.5: (0, 0.25), 3.9: (0, 0.95), 4.0: (1, 0.0)}
    for at, (part, share) in (seconds | {5.99: (1, 0.0), 6.0: (2, 0.0), 99.0: (2, 0.0)}).items():
        found = story.moment(round(at * 100), Fraction(100))
        assert found == (part, pytest.approx(share))
    assert story.next_start(0, Fraction(100)) == 600  # windows run on through transitions
    assert story.next_start(600, Fraction(100)) is None


def test_guidance_is_linear_in_transitions() -> None:
    story = parse("0: a; 4 over=2 guidance_scale=7: b; 6 guidance_scale=2: c")
    scale, schedule = story.guidance(3.0)
    settings = Denoising(guidance_scale=scale, guidance_schedule=schedule)
    expected = {0: 3, 2: 3, 3: 5, 4: 7, 5: 7, 5.99: 7, 6: 2, 50: 2}
    for at, wanted in expected.items():
        assert settings.scale_at(scale, at) == pytest.approx(wanted, abs=1e-4)
    assert parse("0: a; 1: b").guidance(3.0) == (3.0, ())


class Recording(TinyNetwork):
    """Keeps what it is conditioned on and the noise that it begins with."""

    def __init__(self) -> None:
        super().__init__(12)
        self.requires_grad_(False)
        self.seen: list[Tensor] = []
        self.first: list[Tensor] = []

    def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
        assert condition.sum is not None
        self.seen.append(condition.sum)
        self.first.append(x[0].clone())
        return super().forward(x, times, condition)


def test_each_window_sees_the_text_of_its_middle() -> None:
    network = Recording()
    sampling = Denoising(steps=1, solver="euler", guidance_scale=1.0)
    stage = tiny_stage(network=network, sampling=sampling)
    made(stage, 62, conditions={"text": parse("0: rain; 0.1 over=0.1: wind")})
    rain, wind = (stage.conditioners({"text": [text]}).sum for text in ("rain", "wind"))
    assert rain is not None
    assert wind is not None
    # Windows of 20 frames begin at multiples of 14; the middle of their new frames at 500 per s.
    middles = [(0, 20), (20, 34), (34, 48), (48, 62)]
    shares = [min(1.0, (start + stop) // 2 / 50) for start, stop in middles]
    assert len(network.seen) == 4
    for found, share in zip(network.seen, shares, strict=True):
        torch.testing.assert_close(found, torch.lerp(rain, wind, share))


def test_noise_turns_from_seed_to_seed() -> None:
    network = Recording()
    stage = tiny_stage(network=network, sampling=Denoising(steps=1, guidance_scale=1.0))
    story = parse("0 seed=1: rain; 0.03 over=0.01 seed=2: rain")  # frames 10 to 15 turn
    track = Track(
        values=unknown_values(stage.makes, 20, torch.device("cpu")),
        seed=9,
        sampling=stage.sampling,
        conditions={"text": story},
    )
    found = stage.window(track).noise
    one, two = (gaussians(seed, f"{stage.name}/0/start", 0, 20, 8) for seed in (1, 2))
    assert torch.equal(found[:, :11], one[:, :11])
    assert torch.equal(found[:, 15:], two[:, 15:])
    shares = torch.arange(5) / 5
    torch.testing.assert_close(found[:, 10:15], slerp_frames(one[:, 10:15], two[:, 10:15], shares))
    plain = Track(values=track.values, seed=9, sampling=stage.sampling, conditions={"text": "rain"})
    only_text = Track(
        values=track.values,
        seed=9,
        sampling=stage.sampling,
        conditions={"text": parse("0: rain; 0.03 over=0.01: rain")},
    )
    assert torch.equal(stage.window(plain).noise, stage.window(only_text).noise)


def test_strength_follows_the_parts_of_a_variation() -> None:
    stage = tiny_stage(sampling=Denoising(steps=10, guidance_scale=1.0))
    values = unknown_values(stage.makes, 20, torch.device("cpu"))
    turned = "0 strength=0.2: rain; 0.04 over=0.04 strength=1: wind"
    steps = []
    for text in (
        "0: rain",
        "0 strength=0.2: rain",
        turned,
    ):
        track = Track(
            values=values,
            seed=9,
            sampling=stage.sampling,
            conditions={"text": parse(text)},
            variation=Variation(values=torch.zeros(8, 20), strength=0.5),
        )
        steps.append(stage.window(track).levels.num_steps)
    assert steps == [5, 2, 6]


class Letters(nn.Module):
    """A vector for each letter: texts of different lengths."""

    dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.null = Null("zero", 4)

    def forward(self, values: Sequence[str | None]) -> Condition:
        rows = [[[ord(c) / 100, i, 1.0, 0.5] for i, c in enumerate(x or "a")] for x in values]
        return stack([torch.tensor(row) for row in rows])


class ReadsLetters(nn.Module):
    def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
        words = condition.named["text"]
        mean = (words.embeddings * words.mask[..., None]).sum(dim=1) / words.mask.sum(dim=1)[
            :, None
        ]
        return x * times[:, None, None].cos() + mean.repeat(1, 2)[..., None]


def test_texts_of_different_lengths_blend_their_outputs() -> None:
    stage = tiny_stage(
        network=ReadsLetters(),
        conditioners=Conditioners({"text": Letters()}, {"text": "named"}),
        sampling=Denoising(steps=3, guidance_scale=2.0),
    )
    halfway = made(stage, 20, conditions={"text": parse("0: wind; 0.04 over=0.04: rainfall")})
    blend = lm_audio.generation.blend.Blend({"wind": 1, "rainfall": 1})
    torch.testing.assert_close(halfway, made(stage, 20, conditions={"text": blend}))
    rows = [Letters()([text]) for text in ("wind", "rainfall", "rain")]
    fused = [Fused(named={"text": row}) for row in rows]
    assert between(fused[0], fused[1], 0.5) is None
    mixed = between(fused[0], fused[2], 0.25)
    assert mixed is not None
    expected = torch.lerp(rows[0].embeddings, rows[2].embeddings, 0.25)
    assert torch.equal(mixed.named["text"].embeddings, expected)


def test_models_of_tokens_refuse_settings() -> None:
    model = lm_audio.load(device="cpu")
    with pytest.raises(ValueError, match=r"stage changes its prompt at once\. Only models of diff"):
        model.generate([(0.0, "rain"), (1.0, "wind", {"over": 1.0})], duration=2.0)


def test_guidance_has_one_source() -> None:
    model = tiny_pipeline()
    story: Any = [(0.0, "rain", {"guidance_scale": 2.0})]
    for settings, message in (
        (
            {"guidance_schedule": ((0.0, 1.0), (1.0, 0.5))},
            "parts of the story have guidance scales",
        ),
        ({"guidance_scale": {"text": 2.0}}, "parts of the story have guidance scales"),
        ({"guidance_scale": 0.5}, "of at least 1 for the others, got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(story, duration=0.04, sampling=Denoising(**settings))
    twice = Denoising(steps=5, guidance_scale=2.0)
    double = model.generate("rain", duration=0.04, seed=1, sampling=twice)
    assert torch.equal(model.generate(story, duration=0.04, seed=1).samples, double.samples)
