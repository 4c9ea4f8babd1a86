"""Stages whose networks take some lengths only: windows are filled up."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.fuser import Conditioners
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import estimate
from lm_audio.generation.solvers import solve
from lm_audio.generation.track import Variation
from lm_audio.networks.condition import Fused
from lm_audio.sampling import Denoising, gaussians
from tests.lm_audio.generation.test_diffusion_stage import (
    SIGNAL,
    VP,
    WIDTH,
    TinyNetwork,
    made,
    tiny_stage,
)

MULTIPLE, LEAST = 8, 16
REACH = 4  # frames on each side that change an output of the network


class Particular(TinyNetwork):
    """Takes multiples of 8 frames, at least 16."""

    def __init__(self) -> None:
        super().__init__(12)
        self.lengths: list[int] = []

    def forward(self, x: Tensor, times: Tensor, condition: Fused) -> Tensor:
        assert x.shape[2] % MULTIPLE == 0
        assert x.shape[2] >= LEAST
        self.lengths.append(x.shape[2])
        return super().forward(x, times, condition)


def make(**changes: Any) -> DiffusionStage:
    return tiny_stage(
        **{
            "network": Particular().requires_grad_(False),
            "conditioners": Conditioners({}, {}),
            "window_frames": 40,
            "overlap_frames": 8,
            "multiple_of": MULTIPLE,
            "min_frames": LEAST,
            "sampling": Denoising(steps=4, solver="ddim"),
            **changes,
        }
    )


def denoised(stage: DiffusionStage, x: Tensor, circular: bool = False) -> Tensor:
    """A run by the formulas alone, of noise x [D, T]."""
    denoising = stage.sampling
    levels = stage.schedule.levels(denoising.steps)
    steps = solve(denoising, x, levels, fresh=lambda _: x)
    x, level = next(steps)
    network = TinyNetwork(12)
    while level < levels.num_steps:
        around = torch.cat([x[:, -REACH:], x, x[:, :REACH]], dim=1) if circular else x
        times = torch.tensor([levels.time[level]])
        output = network(around[None], times, Fused())[0]
        output = output[:, REACH:-REACH] if circular else output
        alpha, sigma = levels.alpha[level], levels.sigma[level]
        now = estimate(output, x, alpha=alpha, sigma=sigma, predicts=stage.predicts)
        x, level = steps.send(now)
    return x


def noise(stage: DiffusionStage, num_frames: int) -> Tensor:
    first = gaussians(1, f"{stage.name}/0/start", 0, num_frames, WIDTH)
    return first * (VP.levels(4).alpha[0] ** 2 + VP.levels(4).sigma[0] ** 2) ** 0.5


@torch.no_grad()
@pytest.mark.parametrize(("num_frames", "filled"), [(3, 16), (16, 16), (17, 24), (39, 40)])
def test_a_clip_is_the_start_of_a_longer_one_that_fits(num_frames: int, filled: int) -> None:
    stage = make()
    values = made(stage, num_frames)
    assert values.shape == (WIDTH, num_frames)
    assert set(stage.network.lengths) == {filled}  # type: ignore[attr-defined]
    expected = denoised(stage, noise(stage, filled))[:, :num_frames]
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_the_last_window_of_a_long_clip_is_filled() -> None:
    stage = make()
    whole = made(stage, 77)
    assert set(stage.network.lengths) == {40, 16}  # type: ignore[attr-defined]
    # Up to frame 72 the windows are whole, so that a clip's length does not change them.
    longer = made(stage, 104)
    assert torch.equal(longer[:, :72], whole[:, :72])


def test_known_frames_are_kept_in_a_filled_window() -> None:
    values = torch.full((WIDTH, 21), SIGNAL.unknown)
    values[:, :5] = torch.randn(WIDTH, 5)
    values[:, 18:] = torch.randn(WIDTH, 3)
    given = values.clone()
    whole = made(make(), 21, values=values)
    assert whole.isfinite().all()
    known = ~given.isnan()
    assert torch.equal(whole[known], given[known])


def test_audio_to_vary_is_filled_with_silence() -> None:
    original = torch.randn(WIDTH, 21)
    padded = nn.functional.pad(original, (0, 3))
    short = made(make(), 21, variation=Variation(values=original, strength=0.5))
    whole = made(make(), 24, variation=Variation(values=padded, strength=0.5))
    assert torch.equal(short, whole[:, :21])


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [5, 15, 24])
def test_a_loop_is_filled_with_its_other_end(num_frames: int) -> None:
    stage = make(multiple_of=32, window_frames=64, min_frames=32)
    values = made(stage, num_frames, loop=True)
    assert set(stage.network.lengths) == {32}  # type: ignore[attr-defined]
    expected = denoised(stage, noise(stage, num_frames), circular=True)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=1e-5)


def test_windows_that_the_network_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="must be a multiple of 8 and at least 16, got 20"):
        make(window_frames=20)
    with pytest.raises(ValueError, match="must be a multiple of 8 and at least 16, got 8"):
        make(window_frames=8, overlap_frames=0)
