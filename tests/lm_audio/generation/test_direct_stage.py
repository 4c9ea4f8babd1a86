"""A stage that maps a label to vectors, and a diffusion stage that follows them or tokens."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.conditioners.tokens import AlignedTokens
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.direct_stage import DirectStage
from lm_audio.generation.track import Source, Track, unknown_values
from lm_audio.model import Model
from lm_audio.networks.condition import Condition, Fused, stack
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising, Sampling
from lm_audio.signals import Signal
from tests.lm_audio.generation.test_diffusion_stage import (
    RATE,
    SIGNAL,
    Renderer,
    TinyNetwork,
    tiny_stage,
)
from tests.lm_audio.tracks_only import finish

VECTORS = Signal(kind="vector", content="meaning", rate=Fraction(0), width=6, num_vectors=3)
ONE_STEP = Denoising(steps=1, solver="euler", guidance_scale=3.0)


class AsGiven(nn.Module):
    """Passes vectors [D, L] on; nothing gives one zero vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.null = Null("zero", dim)

    def forward(self, values: list[Tensor | None]) -> Condition:
        return stack([self.null.embedding if v is None else v.T for v in values])


class NamedNetwork(TinyNetwork):
    """Takes vectors by name, of a width that is not its own."""

    def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
        given = condition.named["meaning"]
        assert given.embeddings.shape[2] == VECTORS.width
        shift = torch.tanh(given.embeddings).sum(dim=(1, 2))
        shift = shift + condition.named["text"].embeddings.mean(dim=(1, 2))
        return super().forward(x, times, Fused()) + shift[:, None, None]


def translate(fused: Fused) -> Tensor:
    """Vectors [6, 3] of a label's embedding [1, 1, 4]."""
    assert fused.sum is not None
    return (fused.sum[0, 0, :2].repeat(3)[:, None] * torch.tensor([1.0, 2.0, 3.0])).detach()


def direct_stage() -> DirectStage:
    torch.manual_seed(3)
    label = LabelConditioner(["rain", "wind", "snow"], 4, null="zero").requires_grad_(False)
    return DirectStage(
        name="meaning",
        network=translate,
        conditioners=Conditioners({"text": label}, {"text": "sum"}),
        makes=VECTORS,
    )


def stages(**changes: Any) -> tuple[DirectStage, DiffusionStage]:
    direct = direct_stage()
    follower = tiny_stage(
        network=NamedNetwork(12).requires_grad_(False),
        conditioners=Conditioners(
            {"meaning": AsGiven(VECTORS.width), "text": direct.conditioners["text"]},
            {"meaning": "named", "text": "named"},
        ),
        source=Source(stage="meaning", condition="meaning"),
        source_of=direct.values_of,
        sampling=ONE_STEP,
    )
    return direct, replace(follower, **changes)


def pipeline(**changes: Any) -> AudioPipeline:
    return AudioPipeline(Model(stages(**changes), Renderer()))


def test_its_values_are_those_of_the_function() -> None:
    direct = direct_stage()
    clip = pipeline().generate("wind", duration=0.03, seed=1)
    expected = translate(direct.conditioners({"text": ["wind"]}))
    assert torch.equal(clip.stage_values["meaning"], expected)
    assert clip.stage_values["meaning"].shape == (6, 3)
    assert repr(pipeline()).startswith("AudioPipeline(unnamed: meaning (0 M parameters), latents (")
    assert clip.tokens is None


def test_given_vectors_take_the_place_of_the_stage() -> None:
    model = pipeline()
    vectors = model.generate("wind", duration=0.03, seed=1).stage_values["meaning"]
    plain = Denoising(steps=1, solver="euler", guidance_scale=1.0)
    by_text = model.generate("wind", duration=0.03, seed=1, sampling=plain)
    by_vectors = model.generate(
        "wind", duration=0.03, seed=1, tokens={"meaning": vectors}, sampling=plain
    )
    assert torch.equal(by_text.samples, by_vectors.samples)
    with pytest.raises(ValueError, match=r"meaning stage needs vector \[6, 3\], float32"):
        model.generate(duration=0.03, tokens={"meaning": vectors[:, :2]})


def test_guidance_follows_what_the_stage_makes_of_the_negative_prompt() -> None:
    model = pipeline()

    def made(text: str | None, scale: float, **more: Any) -> Tensor:
        sampling = replace(ONE_STEP, guidance_scale=scale)
        clip = model.generate(text, duration=0.03, seed=1, sampling=sampling, **more)
        return clip.stage_values["latents"]

    rain, snow, nothing = made("rain", 1.0), made("snow", 1.0), made(None, 1.0)
    expected = nothing + 3 * (rain - nothing)
    torch.testing.assert_close(made("rain", 3.0), expected, atol=1e-5, rtol=1e-5)
    against = made("rain", 3.0, negative="snow")
    torch.testing.assert_close(against, snow + 3 * (rain - snow), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(rain, snow).any()


def test_an_item_is_the_same_in_a_batch_and_in_pieces() -> None:
    model = pipeline(sampling=Denoising(steps=3))
    prompts, seeds = ["rain", None, "snow"], [3, 4, 5]
    clips = model.generate(prompts, duration=[0.1, 0.01, 0.05], seed=seeds)
    for prompt, seed, clip in zip(prompts, seeds, clips, strict=True):
        seconds = clip.samples.shape[1] / RATE
        alone = model.generate(prompt, duration=seconds, seed=seed)
        assert torch.equal(alone.samples, clip.samples)
        pieces = list(model.stream(prompt, duration=seconds, seed=seed))
        assert torch.equal(torch.cat(pieces, dim=1), clip.samples)


def test_audio_prompts_keep_their_samples() -> None:
    model = pipeline(sampling=Denoising(steps=3))
    sound = 0.3 * torch.sin(torch.arange(400) / 5)[None]
    clip = model.continue_from((sound, RATE), duration=0.03, text="rain", seed=3)
    assert torch.equal(clip.samples[:, :400], sound)
    filled = model.inpaint((sound, RATE), start=0.04, end=0.06, text="rain", seed=3)
    assert torch.equal(filled.samples[:, :160], sound[:, :160])
    assert torch.equal(filled.samples[:, 240:], sound[:, 240:])


def test_settings_for_a_stage_without_any_are_refused() -> None:
    with pytest.raises(ValueError, match="The meaning stage has no sampling settings"):
        pipeline().generate("rain", duration=0.03, sampling={"meaning": Sampling()})
    with pytest.raises(ValueError, match="No stage of this model takes a Sampling"):
        pipeline().generate("rain", duration=0.03, sampling=Sampling())
    with pytest.raises(ValueError, match="must make vectors, got latents of width 8"):
        replace(direct_stage(), makes=SIGNAL)


def test_conditions_of_a_clip_are_embedded_once() -> None:
    direct, follower = stages(source_of=None)
    calls: list[list[str | None]] = []
    direct.conditioners["text"].register_forward_hook(lambda _, inputs, __: calls.append(inputs[0]))
    AudioPipeline(Model([direct, follower], Renderer())).generate("rain", duration=0.03, seed=1)
    assert calls == [["rain"], [None]]  # the second one is the branch without the prompt


@pytest.mark.parametrize("aligned", [True, False])
def test_a_window_waits_for_the_tokens_of_its_time_and_sees_no_others(
    aligned: bool,
) -> None:
    """The tokens have half the rate of the latents."""
    size = 16
    embed = (
        AlignedTokens(size, 12, look_ahead=0, ratio=Fraction(1, 2)) if aligned else Sum(size, 12)
    )
    torch.manual_seed(1)
    nn.init.normal_(embed.embedding.weight)
    stage = tiny_stage(
        conditioners=Conditioners({"tokens": embed}, {"tokens": "sum"}).requires_grad_(False),
        source=Source(stage="tokens", condition="tokens"),
        sampling=Denoising(steps=2, guidance_scale=1.0),
        overlap_frames=0,
    )
    source = Track(values=torch.full((1, 30), -1, dtype=torch.int64), seed=1, sampling=Sampling())
    values = unknown_values(SIGNAL, 60, torch.device("cpu"))
    track = Track(values=values, seed=1, sampling=stage.sampling, source=source)
    batch = stage.new_batch()
    batch.add(track)
    tokens = torch.randint(size, (1, 30), generator=torch.Generator().manual_seed(1))
    assert not batch.step()
    assert batch.waiting()
    source.learn(tokens[:, :10], start=0, num_done=10)
    while batch.step():
        pass
    assert track.num_done == 20
    assert batch.waiting()
    source.learn(tokens[:, 10:], start=10, num_done=30)
    while batch.step():
        pass
    assert track.done
    other = tokens.clone()
    other[0, 25] = (other[0, 25] + 1) % size
    changed = Track(
        values=unknown_values(SIGNAL, 60, torch.device("cpu")),
        seed=1,
        sampling=stage.sampling,
        source=Track(values=other, seed=1, sampling=Sampling()),
    )
    finish([stage], [changed])
    same = (changed.values == track.values).all(dim=0)
    assert same[:40].all()  # the windows before
    assert not same[40:].all()


class Sum(nn.Module):
    """The sum of the embeddings of all given tokens."""

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.null = Null("zero", dim)
        self.embedding = nn.Embedding(num_tokens, dim)

    def forward(self, values: list[Tensor | None]) -> Condition:
        return stack(
            [self.null.embedding if v is None else self.embedding(v).sum(dim=1) for v in values]
        )
