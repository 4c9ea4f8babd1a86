"""Phases: sound with the given magnitudes, in streams, and in loops without a joint."""

import pytest
import torch
from torch import Tensor

from audio_tokenizers.griffin_lim import GriffinLim

LIM = GriffinLim(window_length=160, hop_length=16)


def chord(num_samples: int, *, rate: int = 1600) -> Tensor:
    """Two tones and a rhythm: [1, N]."""
    time = torch.arange(num_samples) / rate
    tones = 0.3 * torch.sin(2 * torch.pi * 110 * time) + 0.2 * torch.sin(2 * torch.pi * 283 * time)
    return (tones * (1 + 0.5 * torch.cos(2 * torch.pi * 2 * time)))[None]


def magnitudes(samples: Tensor, *, circular: bool = False) -> Tensor:
    """torch.stft of samples [1, N]: [1, T, F]."""
    window = torch.hann_window(160)
    if circular:
        padded = torch.cat([samples[:, -80:], samples, samples[:, :80]], dim=1)
        made = torch.stft(padded, 160, 16, window=window, center=False, return_complex=True)
    else:
        made = torch.stft(samples, 160, 16, window=window, return_complex=True)
    return made.abs()[:, :, : samples.shape[1] // 16].transpose(1, 2)


def error(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


def test_the_sound_has_the_magnitudes() -> None:
    wanted = magnitudes(chord(4800))
    made = LIM.whole(wanted)
    assert made.shape == (1, 4800)
    assert error(magnitudes(made), wanted) < 0.15
    start = GriffinLim(window_length=160, hop_length=16, num_iterations=0).whole(wanted)
    assert error(magnitudes(start), wanted) > 0.5  # the first phases are random
    slower = GriffinLim(window_length=160, hop_length=16, momentum=0.0).whole(wanted)
    assert error(magnitudes(made), wanted) < error(magnitudes(slower), wanted)


@pytest.mark.parametrize("size", [1, 7, 120, 1000])
def test_a_stream_gives_the_samples_of_a_whole_call(size: int) -> None:
    wanted = magnitudes(chord(16 * 400)).expand(2, -1, -1)
    stream = LIM.stream(2)
    made = [stream.push(piece) for piece in wanted.split(size, dim=1)]
    assert torch.equal(torch.cat([*made, stream.finish()], dim=1), LIM.whole(wanted))
    if size < 120:
        assert sum(piece.shape[1] for piece in made) > 3000  # before the end


@pytest.mark.parametrize("num_frames", [1, 2, 119, 120, 121, 151, 240, 241])
def test_every_number_of_frames_gives_as_many_hops(num_frames: int) -> None:
    made = LIM.whole(torch.rand(1, num_frames, 81))
    assert made.shape == (1, 16 * num_frames)
    assert made.isfinite().all()
    assert LIM.stream(1).finish().shape == (1, 0)


def test_the_joints_of_blocks_are_like_other_places() -> None:
    """A tone stays a tone: what a jump would add to its second difference is not there."""
    time = torch.arange(16 * 600) / 1600
    tone = 0.5 * torch.sin(2 * torch.pi * 100 * time)[None]
    made = LIM.whole(magnitudes(tone))[0, 200:-200]
    bends = made.diff().diff().abs()
    joints = [120 * 16 * i - 200 for i in range(1, 5)]
    is_near = torch.zeros_like(bends, dtype=torch.bool)
    for joint in joints:
        is_near[joint - 20 : joint + 20] = True
    assert float(bends[is_near].max()) < 1.05 * float(bends[~is_near].max())


def test_a_longer_sound_begins_with_the_shorter_one() -> None:
    wanted = magnitudes(chord(16 * 500))
    long, short = LIM.whole(wanted), LIM.whole(wanted[:, :300])
    assert torch.equal(long[:, : 240 * 16], short[:, : 240 * 16])


@pytest.mark.parametrize("num_samples", [16 * 100, 16 * 100 - 5, 16 * 3, 1])
def test_a_loop_closes_without_a_joint(num_samples: int) -> None:
    T = -(-num_samples // 16)
    made = LIM.circle(torch.rand(1, T, 81), num_samples)
    assert made.shape == (1, num_samples)
    assert made.isfinite().all()
    if num_samples < 1600:
        return
    # Ten periods of a tone in a circle: its magnitudes are the same at each place.
    time = torch.arange(1600) / 1600
    wanted = magnitudes(torch.sin(2 * torch.pi * 100 * time)[None], circular=True)
    loop = LIM.circle(wanted, 1600)
    around = loop.repeat(1, 2)[0, 800:2400].diff().diff().abs()  # the joint is in the middle
    elsewhere = float(torch.cat([around[:780], around[820:]]).max())
    assert float(around[780:820].max()) < 1.05 * elsewhere
    assert error(magnitudes(loop, circular=True), wanted) < 0.15
    linear = LIM.whole(wanted).repeat(1, 2)[0, 800:2400].diff().diff().abs()
    assert float(linear[780:820].max()) > 2 * elsewhere
