"""Conditions that a diffusion stage gives itself: the start of a window, the length of the clip."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from lm_audio.conditioners.condition import Null
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.label import LabelConditioner
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.noise_schedule import NoiseSchedule
from lm_audio.generation.track import Track, unknown_values
from lm_audio.networks.condition import Condition, Fused, stack
from lm_audio.sampling import Denoising
from lm_audio.signals import Signal
from tests.lm_audio.tracks_only import finish

SIGNAL = Signal(kind="latents", content="latents", rate=Fraction(10), width=2)


class Seconds(nn.Module):
    """The number itself."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 1
        self.null = Null("zero", 1)

    def forward(self, values: Sequence[float | None]) -> Condition:
        assert None not in values
        return stack([torch.full((1, 1), value) for value in values])


class Recorder(nn.Module):
    """Records the timing of each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, float]] = []

    def forward(self, x: Tensor, _: Tensor, fused: Fused) -> Tensor:
        start, total = (fused.named[name].embeddings[0, 0].item() for name in ("start", "total"))
        self.seen.append((round(start, 6), round(total, 6)))
        return x * 0.5


def stage_of(network: nn.Module) -> DiffusionStage:
    conditioners = {
        "label": LabelConditioner(["a", "b"], 1),
        "start": Seconds(),
        "total": Seconds(),
    }
    return DiffusionStage(
        name="diffusion",
        network=network,
        predicts="flow",
        schedule=NoiseSchedule(kind="flow"),
        conditioners=Conditioners(conditioners, dict.fromkeys(conditioners, "named")).eval(),
        makes=SIGNAL,
        window_frames=20,
        overlap_frames=5,
        sampling=Denoising(steps=1, solver="euler", guidance_scale=2.0),
        timing={"start": "start", "total": "total"},
    )


@pytest.mark.parametrize("seconds", [None, 3.97])
def test_each_window_gets_its_start_and_all_the_whole_duration(seconds: float | None) -> None:
    network = Recorder()
    stage = stage_of(network)
    track = Track(
        values=unknown_values(SIGNAL, 40, torch.device("cpu")),
        seed=1,
        sampling=stage.sampling,
        conditions={"label": "a"},
        seconds=seconds,
    )
    finish([stage], [track])
    # with guidance, which keeps the timing: two passes per window
    total = seconds or 4.0
    assert network.seen == [(start, total) for start in (0.0, 1.5, 3.0) for _ in range(2)]


@pytest.mark.parametrize("starts_at", [0.0, 7.25])
def test_a_track_may_be_a_part_of_a_recording(starts_at: float) -> None:
    network = Recorder()
    stage = stage_of(network)
    track = Track(
        values=unknown_values(SIGNAL, 30, torch.device("cpu")),
        seed=1,
        sampling=Denoising(steps=1, solver="euler", guidance_scale=1.0),
        seconds=60.0,
        starts_at=starts_at,
    )
    finish([stage], [track])
    assert network.seen == [(starts_at, 60.0), (starts_at + 1.5, 60.0)]


def test_users_do_not_give_the_timing() -> None:
    assert stage_of(Recorder()).conditions == ("label",)
