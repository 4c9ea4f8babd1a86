"""Phases in blocks against the plain algorithm over the whole, and against no algorithm at all."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.bands import Bands
from audio_tokenizers.acoustic.frame_codec.phases import (
    AHEAD,
    BLOCK,
    MOMENTUM,
    ROUNDS,
    PhaseStream,
)

HOP, RATE = 240, 24_000
BANDS = Bands(num_bands=128, num_linear=64, hop=HOP)
J = 96


@pytest.fixture(autouse=True, params=["torch", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        leave_kernel_alone(monkeypatch)
    elif not ROUNDS.load():
        pytest.skip("the kernel cannot be compiled here")


def leave_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PhaseStream, "_suits_kernel", lambda *_: False)


def harmonics() -> Tensor:
    """A voice of gliding pitch that comes and goes, with some breath: [1, N]."""
    time = torch.arange((J + 3) * HOP) / RATE
    pitch = 2 * math.pi * torch.cumsum(140 + 30 * torch.sin(9 * time), 0) / RATE
    voice = torch.stack([torch.sin(k * pitch + k * k) / k for k in range(1, 25)]).sum(0)
    breath = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return ((0.2 * voice * (1 + torch.sin(25 * time)) + 0.01 * breath) / 2)[None]


SPECTRA = BANDS.spectra(harmonics())  # [1, J, bins]
NOISE = BANDS.noise(first=0, num_spectra=J)


def found(magnitudes: Tensor, noise: Tensor, *, iterations: int, size: int = J) -> Tensor:
    """The sound [B, N] that comes of magnitudes which arrive so many at a time."""
    stream = PhaseStream(BANDS.window, iterations=iterations)
    parts = zip(magnitudes.split(size, dim=1), noise.split(size), strict=True)
    hops = [stream.push(*part) for part in parts]
    return torch.cat([*hops, stream.finish()], dim=1).flatten(1)


def convergence(sound: NDArray[np.float64] | Tensor) -> float:
    """How far the magnitudes of a sound [N] are from those asked for, relative to them."""
    samples = torch.as_tensor(sound, dtype=torch.float32)[None]
    error = BANDS.spectra(samples).abs() - SPECTRA.abs()
    return (error.norm() / SPECTRA.norm()).item()


def plain_fast_griffin_lim(spectra: Tensor, *, iterations: int) -> NDArray[np.float64]:
    """The algorithm over all spectra [J, bins] at once, window by window, in float64: [N]."""
    window = BANDS.window.double().numpy()
    length = len(window)
    magnitudes = spectra.abs().double().numpy()

    def sound_of(spectra: NDArray[np.complex128]) -> NDArray[np.float64]:
        sound = np.zeros((len(spectra) + 3) * HOP)
        for number, spectrum in enumerate(spectra):
            part = np.fft.irfft(np.append(spectrum, 0)) * window
            sound[number * HOP : number * HOP + length] += part * HOP
        return sound

    def spectra_of(sound: NDArray[np.float64]) -> NDArray[np.complex128]:
        starts = range(0, len(magnitudes) * HOP, HOP)
        return np.stack([np.fft.rfft(sound[i : i + length] * window)[:-1] for i in starts])

    target = magnitudes * np.exp(1j * np.angle(NOISE[: len(magnitudes)].numpy()))
    before = np.zeros_like(target)
    for _ in range(iterations):
        consistent = spectra_of(sound_of(target))
        moved = consistent + MOMENTUM * (consistent - before)
        target, before = magnitudes * np.exp(1j * np.angle(moved)), consistent
    return sound_of(target)


def test_true_phases_give_the_sound_back() -> None:
    sound = found(SPECTRA.abs(), SPECTRA[0], iterations=0)
    inside = slice(3 * HOP, -3 * HOP)  # where four windows overlap
    # But for the bin at Nyquist, which is left out.
    torch.testing.assert_close(sound[:, inside], harmonics()[:, inside], atol=1e-3, rtol=0)


def test_phases_are_found_about_as_well_as_over_the_whole_signal() -> None:
    start = convergence(found(SPECTRA.abs(), NOISE, iterations=0)[0])
    blocks = convergence(found(SPECTRA.abs(), NOISE, iterations=16)[0])
    whole = convergence(plain_fast_griffin_lim(SPECTRA[0], iterations=16))
    assert blocks < 0.25 * start
    assert blocks < 1.1 * whole


def test_one_block_is_the_plain_algorithm() -> None:
    one = PhaseStream(BANDS.window, iterations=3)
    hops = [one.push(SPECTRA[:, :BLOCK].abs(), NOISE[:BLOCK]), one.finish()]
    sound = torch.cat(hops, dim=1).flatten(1)[0]
    expected = plain_fast_griffin_lim(SPECTRA[0, :BLOCK], iterations=3)
    np.testing.assert_allclose(sound, expected, atol=1e-3)


def test_more_iterations_come_closer() -> None:
    errors = [convergence(found(SPECTRA.abs(), NOISE, iterations=n)[0]) for n in (0, 1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_a_tone_keeps_its_frequency() -> None:
    time = torch.arange((J + 3) * HOP) / RATE
    magnitudes = BANDS.spectra(0.5 * torch.sin(2 * math.pi * 987.0 * time)[None]).abs()
    sound = found(magnitudes, NOISE, iterations=16)[0, 8 * HOP : -8 * HOP]
    power = torch.fft.rfft(sound * torch.hann_window(len(sound))).abs().square()
    frequency = torch.arange(len(power)) * RATE / len(sound)
    near = (frequency - 987).abs() < 50
    assert power[near].sum() > 0.98 * power.sum()
    assert sound.square().mean().sqrt().item() == pytest.approx(0.5 / math.sqrt(2), rel=0.1)


def test_silence_stays_silence() -> None:
    sound = found(torch.zeros(2, J, 480), NOISE, iterations=4)
    assert sound.shape == (2, (J + 3) * HOP)
    assert sound.count_nonzero() == 0


@pytest.mark.parametrize("size", [1, 7, BLOCK, 40])
def test_the_sound_does_not_depend_on_how_many_spectra_arrive_at_a_time(size: int) -> None:
    magnitudes = torch.cat([SPECTRA.abs(), SPECTRA.abs().flip(1)])
    whole = found(magnitudes, NOISE, iterations=2)
    assert torch.equal(found(magnitudes, NOISE, iterations=2, size=size), whole)
    assert torch.equal(found(magnitudes[1:], NOISE, iterations=2, size=size), whole[1:])


@pytest.mark.parametrize("num_spectra", [1, 3, BLOCK, BLOCK + AHEAD, BLOCK + AHEAD + 1])
def test_any_number_of_spectra_becomes_sound(num_spectra: int) -> None:
    sound = found(SPECTRA[:, :num_spectra].abs(), NOISE[:num_spectra], iterations=2)
    assert sound.shape == (1, (num_spectra + 3) * HOP)
    assert sound.isfinite().all()
    assert sound.abs().max() > 0


def test_a_block_waits_for_no_more_than_it_looks_ahead() -> None:
    stream, given = PhaseStream(BANDS.window, iterations=1), 0
    for number in range(J):
        given += stream.push(
            SPECTRA[:, number : number + 1].abs(), NOISE[number : number + 1]
        ).shape[1]
        assert number + 1 - given < BLOCK + AHEAD
    assert given % BLOCK == 0


def test_sound_found_from_levels_alone_has_these_levels() -> None:
    levels = BANDS.levels(SPECTRA)
    nothing = torch.zeros_like(levels)
    smooth = BANDS.magnitudes(levels, nothing, nothing, NOISE)
    again = BANDS.levels(BANDS.spectra(found(smooth, NOISE, iterations=16)))
    error = (again - levels).abs().mean()
    assert error < 0.2
    assert error < 0.2 * (BANDS.levels(SPECTRA.flip(1)) - levels).abs().mean()


@pytest.mark.parametrize("hop", [2, 12, 20, 25, 30, 32, 240])
@pytest.mark.parametrize(("rows", "num_spectra"), [(1, 1), (3, 5), (2, 21)])
def test_the_kernel_finds_the_phases_that_torch_does(
    rows: int, num_spectra: int, hop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    magnitudes = torch.rand(rows, num_spectra, 2 * hop) + 0.1
    noise = torch.randn(num_spectra, 2 * hop, dtype=torch.complex64)
    window = torch.hann_window(4 * hop)
    window = window / window.square().sum().sqrt()

    def sound() -> Tensor:
        stream = PhaseStream(window, iterations=3)
        return torch.cat([stream.push(magnitudes, noise), stream.finish()], dim=1)

    by_default = sound()
    leave_kernel_alone(monkeypatch)
    torch.testing.assert_close(by_default, sound(), atol=1e-4, rtol=1e-4)


def test_windows_of_other_sizes_are_left_to_torch() -> None:
    stream = PhaseStream(torch.ones(28) / 28**0.5, iterations=2)
    magnitudes, noise = torch.rand(1, 9, 14), torch.randn(9, 14, dtype=torch.complex64)
    assert stream.push(magnitudes, noise).isfinite().all()
