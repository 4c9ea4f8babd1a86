"""A diffusion stage: Gaussian data, whose best denoiser is linear and known, and small networks.

The renderer takes each latent frame for the samples of that frame.
"""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule, Predicts
from lm_audio.generation.track import Track, unknown_values
from lm_audio.model import Model
from lm_audio.networks.condition import Fused, Known
from lm_audio.pipeline import AudioPipeline
from lm_audio.sampling import Denoising, Sampling
from lm_audio.signals import Signal
from tests.lm_audio.tracks_only import finish

WIDTH, RATE = 8, 4000  # samples per frame, samples per second
SIGNAL = Signal(kind="latents", content="latents", rate=Fraction(RATE, WIDTH), width=WIDTH)
VP = NoiseSchedule(kind="linear", spacing="karras")  # ends at little noise, as the tests need
FLOW = NoiseSchedule(kind="flow")
MEAN, SPREAD = 0.7, 0.4


class Renderer:
    """The identity, but for the shape."""

    signal = SIGNAL
    identity = "frames"
    sample_rate = RATE
    num_channels = 1
    hop_length = WIDTH

    @property
    def encoder(self) -> "Renderer":
        return self

    def encode(self, samples: Tensor) -> Tensor:
        missing = -samples.shape[1] % WIDTH
        return nn.functional.pad(samples, (0, missing)).reshape(-1, WIDTH).T

    def prompt_frames(self, num_samples: int) -> int:
        return num_samples // WIDTH

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // WIDTH)

    def stream(self) -> "Renderer":
        return self

    def push(self, values: Tensor) -> Tensor:
        return values.T.reshape(1, -1)

    def finish(self) -> Tensor:
        return torch.zeros(1, 0)

    def render(self, values: Tensor, *, num_samples: int | None = None) -> Tensor:
        return self.push(values)[:, :num_samples]


class GaussianDenoiser(nn.Module):
    """The exact expectation of Gaussian data, whose frames correlate like an AR(1) process."""

    def __init__(self, schedule: NoiseSchedule, predicts: Predicts, correlation: float) -> None:
        super().__init__()
        self.schedule, self.predicts, self.correlation = schedule, predicts, correlation
        self.calls: list[tuple[int, int]] = []
        self.register_buffer("mean", torch.tensor(MEAN))

    def level(self, time: float) -> tuple[float, float]:
        if self.schedule.kind == "flow":
            return 1 - time, time
        signal = self.schedule._signal()
        log_ratios = np.log((1 - signal) / signal) / 2
        ratio = math.exp(np.interp(time, np.arange(len(signal)), log_ratios))
        return 1 / math.hypot(1, ratio), ratio / math.hypot(1, ratio)

    def forward(self, x: Tensor, times: Tensor, _: Fused) -> Tensor:
        B, D, T = x.shape
        assert D == WIDTH
        self.calls.append((B, T))
        frame = torch.arange(T)
        lag = (frame[:, None] - frame).abs()
        covariance = SPREAD**2 * self.correlation ** lag.double()
        made = []
        for row, time in zip(x.double(), times.tolist(), strict=True):
            alpha, sigma = self.level(time)
            of_x = alpha**2 * covariance + sigma**2 * torch.eye(T, dtype=torch.float64)
            gain = alpha * torch.linalg.solve(of_x, covariance)
            x0 = MEAN + (row - alpha * MEAN) @ gain
            noise = (row - alpha * x0) / sigma
            outputs = {"x0": x0, "epsilon": noise, "flow": noise - x0}
            made.append(outputs.get(self.predicts, alpha * noise - sigma * x0))
        return torch.stack(made).float()


class TinyNetwork(nn.Module):
    """Two convolutions over time, the noise level and a condition."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.before = nn.Conv1d(WIDTH, dim, 5, padding=2)
        self.time = nn.Linear(1, dim)
        self.after = nn.Conv1d(dim, WIDTH, 5, padding=2)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        self.rows: list[int] = []

    def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
        self.rows.append(len(x))
        h = self.before(x) + self.time(times[:, None] / 1000)[..., None]
        if condition.sum is not None:
            h = h + condition.sum.transpose(1, 2)
        return self.after(torch.tanh(h))


def gaussian_stage(
    *,
    predicts: Predicts = "v",
    schedule: NoiseSchedule = VP,
    correlation: float = 0.0,
    window_frames: int = 64,
    overlap_frames: int = 0,
    **denoising: Any,
) -> DiffusionStage:
    return DiffusionStage(
        name="latents",
        network=GaussianDenoiser(schedule, predicts, correlation),
        predicts=predicts,
        schedule=schedule,
        conditioners=Conditioners({}, {}),
        makes=SIGNAL,
        window_frames=window_frames,
        overlap_frames=overlap_frames,
        sampling=Denoising(**denoising),
    )


def tiny_stage(**changes: Any) -> DiffusionStage:
    torch.manual_seed(4)
    conditioners = Conditioners({"text": LabelConditioner(["rain", "wind"], 12)}, {"text": "sum"})
    stage = DiffusionStage(
        name="latents",
        network=TinyNetwork(12).requires_grad_(False),
        predicts="v",
        schedule=VP,
        conditioners=conditioners.requires_grad_(False),
        makes=SIGNAL,
        window_frames=20,
        overlap_frames=6,
        sampling=Denoising(steps=5),
    )
    return replace(stage, **changes)


def tiny_pipeline(**changes: Any) -> AudioPipeline:
    return AudioPipeline(Model([tiny_stage(**changes)], Renderer()))


def track(stage: DiffusionStage, num_frames: int, **others: Any) -> Track:
    values = others.pop("values", unknown_values(SIGNAL, num_frames, torch.device("cpu")))
    return Track(values=values, **{"seed": 1, "sampling": stage.sampling, **others})


def made(stage: DiffusionStage, num_frames: int, **others: Any) -> Tensor:
    one = track(stage, num_frames, **others)
    finish([stage], [one])
    return one.values


@pytest.mark.parametrize("predicts", ["epsilon", "v", "x0", "flow"])
@pytest.mark.parametrize("solver", ["ddim", "euler", "dpm++2m", "heun", "ipndm"])
def test_samples_have_the_mean_and_spread_of_gaussian_data(predicts: Any, solver: Any) -> None:
    schedule = FLOW if predicts == "flow" else VP
    steps = 80 if solver in ("ddim", "euler") else 30
    stage = gaussian_stage(predicts=predicts, schedule=schedule, steps=steps, solver=solver)
    values = made(stage, 640)  # 5,120 numbers
    assert float(values.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(values.std()) == pytest.approx(SPREAD, abs=0.02)


@pytest.mark.parametrize("schedule", [VP, FLOW])
def test_ancestral_and_ping_pong_samples_do_too(schedule: NoiseSchedule) -> None:
    ancestral = gaussian_stage(schedule=schedule, steps=150, solver="ddim", eta=1.0)
    values = made(ancestral, 640)
    assert float(values.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(values.std()) == pytest.approx(SPREAD, abs=0.02)
    # The best guess of x0 is not a sample: ping-pong with it keeps the mean and shrinks the spread.
    values = made(gaussian_stage(schedule=schedule, steps=8, solver="ping-pong"), 640)
    assert float(values.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(values.std()) < SPREAD


def test_more_steps_come_nearer_to_the_exact_solution() -> None:
    exact = made(gaussian_stage(steps=1000, solver="heun"), 64)
    for solver, best in (("euler", 0.05), ("dpm++2m", 0.02), ("heun", 0.02)):
        errors = [
            float((made(gaussian_stage(steps=steps, solver=solver), 64) - exact).abs().max())
            for steps in (5, 20, 80)
        ]
        assert errors[0] > errors[1] > errors[2]
        assert errors[2] < best


def test_a_continuation_follows_what_is_known() -> None:
    """It correlates with the last known frame, if less than the data do: replacement is biased."""
    rho, known = 0.95, SPREAD * torch.linspace(-2.5, 2.5, WIDTH)
    stage = gaussian_stage(correlation=rho, window_frames=24, steps=100, solver="ddim", eta=1.0)

    def slope(values: Tensor) -> float:
        results = []
        for seed in range(20):
            result = made(stage, 16, values=values.clone(), seed=seed)
            kept = ~values.isnan()
            assert torch.equal(result[kept], values[kept])
            results.append(result[:, 8] - MEAN)
        return float(torch.stack(results).mean(dim=0) @ known / known.square().sum())

    nothing = unknown_values(SIGNAL, 16, torch.device("cpu"))
    continued = nothing.clone()
    continued[:, :8] = MEAN + known[:, None]
    assert 0.65 < slope(continued) < 1.0
    assert abs(slope(nothing)) < 0.2


def test_windows_keep_the_end_of_the_one_before() -> None:
    stage = gaussian_stage(correlation=0.95, window_frames=24, overlap_frames=8, steps=50)
    values = made(stage, 24 + 16 * 30) - MEAN
    assert {T for _, T in stage.network.calls} == {24}
    correlations = (values[:, 1:] * values[:, :-1]).mean(dim=0) / SPREAD**2
    joins = torch.arange(23, correlations.numel(), 16)
    assert 0.6 < float(correlations[joins].mean()) < 1.0
    torn = gaussian_stage(correlation=0.95, window_frames=24, overlap_frames=0, steps=50)
    values = made(torn, 24 * 30) - MEAN
    correlations = (values[:, 1:] * values[:, :-1]).mean(dim=0) / SPREAD**2
    assert abs(float(correlations[23::24].mean())) < 0.3


def test_an_item_is_the_same_alone_and_in_a_batch_of_other_lengths() -> None:
    pipeline = tiny_pipeline()
    prompts = ["rain", None, "wind", "rain"]
    durations, seeds = [0.101, 0.01, 0.04, 0.07], [3, 4, 5, 6]
    clips = pipeline.generate(prompts, duration=durations, seed=seeds)
    for prompt, duration, seed, clip in zip(prompts, durations, seeds, clips, strict=True):
        alone = pipeline.generate(prompt, duration=duration, seed=seed)
        assert torch.equal(alone.samples, clip.samples)
        assert clip.samples.shape == (1, round(duration * RATE))
        assert clip.stage_values["latents"].isfinite().all()
    again = pipeline.generate("rain", duration=0.101, seed=4)
    assert not torch.isclose(again.samples, clips[0].samples).all()


def test_rows_that_share_a_pass_give_what_they_give_alone() -> None:
    """As on a GPU: up to rounding, whatever their conditions, levels and lengths."""
    stage = tiny_stage()
    tracks = [
        track(stage, T, seed=seed, conditions={"text": text} if text else {})
        for seed, (T, text) in enumerate([(20, "rain"), (20, "wind"), (9, "rain"), (33, None)])
    ]
    batch: Any = stage.new_batch()
    batch._rows_per_pass = None
    for one in tracks:
        batch.add(one)
    while batch.step():
        pass
    assert max(stage.network.rows) == 5  # three windows of 20 frames, two of them with guidance
    for seed, one in enumerate(tracks):
        alone = made(stage, one.num_frames, seed=seed, conditions=one.conditions)
        torch.testing.assert_close(one.values, alone, atol=1e-4, rtol=1e-4)


def test_streamed_sound_is_the_whole_clip_in_pieces() -> None:
    pipeline = tiny_pipeline()
    whole = pipeline.generate("rain", duration=0.3, seed=3, raw=True).samples
    pieces = list(pipeline.stream("rain", duration=0.3, seed=3, raw=True))
    assert len([piece for piece in pieces if piece.shape[1]]) > 3
    assert torch.equal(torch.cat(pieces, dim=1), whole)


def test_a_longer_clip_begins_like_a_shorter_one_where_their_windows_are_equal() -> None:
    stage = tiny_stage()
    assert torch.equal(made(stage, 48)[:, :34], made(stage, 34))  # windows of 20, the next from 14


def test_a_request_chooses_the_overlap_of_its_windows() -> None:
    pipeline = tiny_pipeline()
    network: Any = pipeline.stages["latents"].network  # type: ignore[attr-defined]
    for overlap, windows in ((None, 3), (0.03, 5), (0.0, 2)):  # of 20 frames, 2 ms each
        network.rows.clear()
        pipeline.generate(duration=0.08, seed=1, overlap=overlap)
        assert len(network.rows) == 5 * windows
    with pytest.raises(ValueError, match=r"overlap must be from 0 to 0.038 seconds, got 0.04"):
        pipeline.generate(duration=0.08, overlap=0.04)


def test_a_continuation_keeps_the_prompt() -> None:
    pipeline = tiny_pipeline()
    prompt = 0.3 * torch.sin(torch.arange(200) / 5)[None]
    clip = pipeline.continue_from((prompt, RATE), duration=0.03, seed=3)
    assert torch.equal(clip.samples[:, :200], prompt)
    assert clip.samples.shape == (1, 320)
    other = pipeline.continue_from((prompt.flip(1), RATE), duration=0.03, seed=3)
    assert not torch.isclose(clip.samples[:, 200:], other.samples[:, 200:]).any(dim=1).all()


def test_a_span_is_filled_and_both_sides_kept_and_seen() -> None:
    known = torch.randn(WIDTH, 60, generator=torch.Generator().manual_seed(3))
    values = known.clone()
    values[:, 10:14] = torch.nan
    values[:, 40:43] = torch.nan
    stage = tiny_stage()
    filled = made(stage, 60, values=values.clone())
    kept = [*range(10), *range(14, 40), *range(43, 60)]
    assert torch.equal(filled[:, kept], known[:, kept])
    assert filled.isfinite().all()
    behind = values.clone()
    behind[:, 14:16] += 1.0
    changed = made(stage, 60, values=behind)[:, 10:14]
    assert not torch.isclose(changed, filled[:, 10:14]).all(dim=0).any()
    assert len(stage.network.rows) == 2 * 2 * 5  # nothing where all is known


def test_a_network_that_sees_known_frames_gets_those_of_its_window() -> None:
    found: list[Known] = []

    class Seeing(TinyNetwork):
        def forward(self, x: Tensor, times: Tensor, condition: Fused, *, known: Known) -> Tensor:  # type: ignore[override]
            found.append(known)
            return super().forward(x, times, condition)

    stage = tiny_stage(network=Seeing(12).requires_grad_(False), sees_known=True)
    values = unknown_values(SIGNAL, 30, torch.device("cpu"))
    values[:, :4], values[:, 18:] = 1.5, 2.5
    done = made(stage, 30, values=values)
    assert [tuple(known.values.shape) for known in found] == [(1, WIDTH, 20)] * 5
    for known in found:
        assert known.mask[0].tolist() == [True] * 4 + [False] * 14 + [True] * 2
        assert torch.equal(known.values[0, :, :4], values[:, :4])
        assert torch.equal(known.values[0, :, 18:], values[:, 18:20])
        assert not known.values[0, :, 4:18].any()
    assert torch.equal(done, made(tiny_stage(), 30, values=values))  # which ignores them


def test_inpainting_keeps_the_samples_beside_the_span() -> None:
    pipeline = tiny_pipeline()
    whole = 0.3 * torch.sin(torch.arange(400) / 5)[None]
    reports: list[float] = []
    clip = pipeline.inpaint(
        (whole, RATE), start=0.04, end=0.06, text="rain", seed=3, progress=reports.append
    )
    assert torch.equal(clip.samples[:, :160], whole[:, :160])
    assert torch.equal(clip.samples[:, 240:], whole[:, 240:])
    assert not torch.equal(clip.samples[:, 160:240], whole[:, 160:240])
    assert reports == sorted(reports)
    assert reports[-1] == 1.0


def test_scale_one_and_no_prompt_cost_no_second_pass() -> None:
    for text, scale, passes in (("rain", 1.0, 5), (None, 3.0, 5), ("rain", 3.0, 10)):
        stage = tiny_stage(sampling=Denoising(steps=5, guidance_scale=scale))
        made(stage, 20, conditions={} if text is None else {"text": text})
        assert stage.network.rows == [1] * passes


def test_guidance_is_the_weighted_sum_and_negative_prompts_take_part() -> None:
    stage = tiny_stage(sampling=Denoising(steps=1, solver="euler", guidance_scale=3.0))
    rain, wind, nothing = (
        made(stage, 20, conditions=given, sampling=replace(stage.sampling, guidance_scale=1.0))
        for given in ({"text": "rain"}, {"text": "wind"}, {})
    )
    guided = made(stage, 20, conditions={"text": "rain"})
    torch.testing.assert_close(guided, nothing + 3 * (rain - nothing), atol=1e-5, rtol=1e-5)
    against = made(stage, 20, conditions={"text": "rain"}, negative={"text": "wind"})
    torch.testing.assert_close(against, wind + 3 * (rain - wind), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(guided, against).all()


def test_guidance_can_be_limited_to_a_part_of_the_run() -> None:
    for interval, passes in (((0.0, 1.0), 10), ((0.4, 1.0), 8), ((0.0, 0.6), 8), ((0.0, 0.0), 5)):
        settings = Denoising(steps=5, guidance_scale=3.0, guidance_interval=interval)
        stage = tiny_stage(sampling=settings)
        values = made(stage, 20, conditions={"text": "rain"})
        assert len(stage.network.rows) == passes
        plain = replace(settings, guidance_scale=1.0, guidance_interval=(0.0, 1.0))
        same = made(stage, 20, conditions={"text": "rain"}, sampling=plain)
        assert torch.equal(values, same) == (interval == (0.0, 0.0))


def test_rescaled_guidance_keeps_the_spread_of_the_prompts_output() -> None:
    """As in Lin et al. (2023), on the output of the network."""
    x0 = {}
    for scale, rescale in ((1.0, 0.0), (6.0, 0.0), (6.0, 1.0), (6.0, 0.5)):
        settings = Denoising(
            steps=1, solver="euler", guidance_scale=scale, guidance_rescale=rescale
        )
        stage = tiny_stage(sampling=settings, predicts="x0", schedule=FLOW)
        x0[scale, rescale] = made(stage, 20, conditions={"text": "rain"})
    ratio = x0[1.0, 0.0].std() / x0[6.0, 0.0].std()
    torch.testing.assert_close(x0[6.0, 1.0], x0[6.0, 0.0] * ratio)
    torch.testing.assert_close(x0[6.0, 0.5], x0[6.0, 0.0] * (1 + ratio) / 2)


def test_progress_moves_with_every_step() -> None:
    reports: list[float] = []
    tiny_pipeline().generate("rain", duration=0.07, seed=1, progress=reports.append)
    assert len(reports) == 15  # 34 frames and one more: three windows of 5 steps
    assert reports == sorted(set(reports))
    assert reports[-1] == 1.0


def test_settings_of_another_kind_are_refused() -> None:
    pipeline = tiny_pipeline()
    few = pipeline.generate("rain", duration=0.03, seed=1, sampling=Denoising(steps=2))
    by_name = {"latents": Denoising(steps=2)}
    again = pipeline.generate("rain", duration=0.03, seed=1, sampling=by_name)
    assert torch.equal(few.samples, again.samples)
    for sampling, message in (
        (Sampling(), "No stage of this model takes a Sampling; pass a Denoising"),
        ({"latents": Sampling()}, "The latents stage takes a Denoising, got a Sampling"),
        (3, "sampling must be a Sampling, Unmasking or Denoising, .* got 3"),
        (Denoising(steps=1001), "steps must be at most 1000 for this model, got 1001"),
        (
            Denoising(guidance_scale={"melody": 2.0}),
            "condition that the latents stage does not have: melody",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.generate("rain", duration=0.03, sampling=sampling)
    with pytest.raises(ValueError, match="Unknown label 'snow'"):
        pipeline.generate("snow", duration=0.3)
    one = Denoising(guidance_scale=1.0)
    with pytest.raises(ValueError, match=r"[Nn]egative prompt has no effect"):
        pipeline.generate("rain", duration=0.3, negative="wind", sampling=one)


def test_a_network_that_diverges_is_an_error() -> None:
    pipeline = tiny_pipeline(network=lambda x, times, _: x / (times - times)[:, None, None])
    with pytest.raises(ValueError, match="The latents stage diverged to values that are not fin"):
        pipeline.generate("rain", duration=0.03, seed=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"overlap_frames": 20},
            "overlap_frames of the latents stage must be from 0 to 19, got 20",
        ),
        ({"predicts": "epsilon", "schedule": FLOW}, "cannot predict epsilon with a flow schedule"),
        (
            {"makes": Signal(kind="vector", content="x", rate=Fraction(0), width=8)},
            "The latents stage must make latents, got a vector of width 8",
        ),
    ],
)
def test_stages_that_cannot_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_stage(**wrong)
