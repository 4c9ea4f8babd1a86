"""Levels of bands against closed forms, and spectra drawn from them against numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from audio_tokenizers.acoustic.frame_codec.bands import (
    FLOOR,
    NOISE_LEVEL,
    UNSTEADY,
    Bands,
    band_weights,
)

NUM_BANDS, NUM_LINEAR, HOP, NUM_BINS = 128, 64, 240, 480
SINGLE = NUM_LINEAR - 1  # bands of one bin; the last linear one reaches into the next bin
BANDS = Bands(num_bands=NUM_BANDS, num_linear=NUM_LINEAR, hop=HOP)
# The first bands are bins; the others lie evenly on a log scale, up to the last bin.
CENTRES = np.concatenate(
    [np.arange(63), np.exp(np.linspace(math.log(63), math.log(479), NUM_BANDS - NUM_LINEAR + 1))]
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(magnitudes: Tensor) -> Tensor:
    """The levels of magnitudes [..., bins]."""
    return BANDS.levels(magnitudes.to(torch.complex64))


@pytest.mark.parametrize("shape", [(128, 64, 480), (40, 16, 480), (12, 4, 64)])
def test_a_band_is_a_mean_of_bins_and_each_bin_belongs_to_two_bands_at_most(
    shape: tuple[int, int, int],
) -> None:
    num_bands, num_linear, num_bins = shape
    measure, draw = band_weights(num_bands=num_bands, num_linear=num_linear, num_bins=num_bins)
    torch.testing.assert_close(measure.sum(1), torch.ones(num_bands))
    torch.testing.assert_close(draw.sum(1), torch.ones(num_bins))
    assert (measure >= 0).all()
    assert ((draw > 0).sum(1) <= 2).all()


def test_low_bands_are_single_bins() -> None:
    measure, draw = band_weights(num_bands=NUM_BANDS, num_linear=NUM_LINEAR, num_bins=NUM_BINS)
    assert torch.equal(draw[:64, :64], torch.eye(64))
    assert torch.equal(measure[:63, :63], torch.eye(63))
    assert measure[:63, 63:].count_nonzero() == 0


def test_bins_are_drawn_on_straight_lines_through_the_centres_of_bands() -> None:
    values = noise(NUM_BANDS)
    drawn = BANDS.draw @ values
    expected = np.interp(np.arange(NUM_BINS), CENTRES, values.numpy())
    np.testing.assert_allclose(drawn, expected, atol=1e-4)


def test_spectra_are_those_of_torch_with_a_window_of_unit_energy() -> None:
    samples = noise(2, 8 * HOP)
    window = torch.hann_window(4 * HOP)
    expected = torch.stft(
        samples, 4 * HOP, HOP, window=window, center=False, return_complex=True
    ).transpose(1, 2)[..., :-1]  # without Nyquist
    expected = expected / window.square().sum().sqrt()
    torch.testing.assert_close(BANDS.spectra(samples), expected, atol=1e-5, rtol=1e-4)


def test_a_sine_at_the_middle_of_a_bin_has_the_level_of_the_closed_form() -> None:
    amplitude, bin_number, length = 0.5, 20, 4 * HOP
    time = torch.arange(12 * HOP)
    sine = amplitude * torch.sin(2 * math.pi * bin_number / length * time)
    levels = BANDS.levels(BANDS.spectra(sine[None]))[0].exp() - FLOOR  # [J, bands]
    # Half the amplitude, times the sum of the window, n / 2, over its norm, the root of 3 n / 8.
    peak = amplitude / 2 * (length / 2) / math.sqrt(3 * length / 8)
    expected = torch.zeros(NUM_BANDS)
    expected[bin_number - 1 : bin_number + 2] = torch.tensor([peak / 2, peak, peak / 2])
    torch.testing.assert_close(levels, expected.expand_as(levels), atol=1e-4, rtol=1e-4)


def test_white_noise_has_the_levels_of_the_closed_forms() -> None:
    scale = 0.1
    levels = BANDS.levels(BANDS.spectra(scale * noise(8, 203 * HOP)))
    # Of one bin, the mean logarithm of a Rayleigh variable; of many, nearly that of its mean.
    expected = math.log(scale) - np.euler_gamma / 2
    assert levels[..., 5:60].mean().item() == pytest.approx(expected, abs=0.02)
    wide = math.log(scale * math.sqrt(math.pi) / 2)
    assert levels[..., -20:].mean().item() == pytest.approx(wide, abs=0.04)
    louder = (levels[..., 5:].exp() - FLOOR).mean().item()
    assert louder == pytest.approx(scale * math.sqrt(math.pi) / 2, rel=0.01)


def test_magnitudes_without_roughness_are_smooth_whatever_the_noise() -> None:
    levels = noise(2, 7, NUM_BANDS) - 4  # far below full scale
    nothing = torch.zeros_like(levels)
    first, second = (
        BANDS.magnitudes(levels, nothing, nothing, BANDS.noise(first=start, num_spectra=7))
        for start in (0, 1000)
    )
    assert torch.equal(first, second)
    lines = np.stack([np.interp(np.arange(NUM_BINS), CENTRES, row) for row in levels.flatten(0, 1)])
    expected = np.maximum(np.exp(lines) - FLOOR, 0).reshape(first.shape)
    np.testing.assert_allclose(first, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("roughness", [0.0, 0.5, 1.0])
def test_what_is_drawn_has_the_levels_that_were_asked_for(roughness: float) -> None:
    drawn_noise = BANDS.noise(first=11, num_spectra=200)
    slope = torch.linspace(0, -3, NUM_BANDS).expand(1, 200, -1)
    drawn = BANDS.magnitudes(
        slope, torch.full_like(slope, roughness), torch.zeros_like(slope), drawn_noise
    )
    error = measured(drawn) - slope
    assert error.mean(1).abs().max() < 0.06
    assert error.abs().mean() < 0.05
    assert error[..., :SINGLE].abs().mean() < 1e-3  # but for FLOOR, exact


def test_what_is_drawn_is_as_rough_as_was_asked_for() -> None:
    drawn_noise = BANDS.noise(first=3, num_spectra=400)
    levels = torch.full((1, 400, NUM_BANDS), -1.0)
    found = []
    for asked in (0.0, 0.5, 1.0):
        texture = torch.full_like(levels, asked), torch.zeros_like(levels)
        drawn = BANDS.magnitudes(levels, *texture, drawn_noise)
        found.append(BANDS.roughness(drawn.to(torch.complex64))[..., NUM_LINEAR:].mean().item())
    assert found[0] == pytest.approx(0, abs=0.01)
    assert found[1] == pytest.approx(0.25, abs=0.05)  # of deviations half as large
    assert found[2] == pytest.approx(0.9, abs=0.1)


def test_magnitudes_of_full_roughness_and_noisiness_are_those_of_the_noise() -> None:
    drawn_noise = BANDS.noise(first=3, num_spectra=400)
    levels = torch.full((1, 400, NUM_BANDS), -1.0)
    whole = torch.ones_like(levels)
    ratio = BANDS.magnitudes(levels, whole, whole, drawn_noise)[0] / math.exp(-1.0)
    torch.testing.assert_close(ratio, drawn_noise.abs() / NOISE_LEVEL, atol=0.01, rtol=0.01)


def test_levels_of_noise_are_steady_and_those_of_speech_like_bursts_are_not() -> None:
    samples = noise(1, 403 * HOP)
    bursts = samples * (torch.arange(403 * HOP) // (20 * HOP) % 2)  # 0.2 s each
    tone = torch.sin(2 * math.pi * 20 / (4 * HOP) * torch.arange(403 * HOP))[None]
    steady, changing, still = (
        BANDS.unsteadiness(BANDS.levels(BANDS.spectra(x)))[:, 50:-50, 4:]
        for x in (samples, bursts, tone + 0.1 * samples)
    )
    assert steady.mean().item() == pytest.approx(1, abs=0.1)
    assert changing.min() > UNSTEADY
    assert still[..., 16].mean() < 0.5  # a tone in noise hardly varies


def test_the_error_of_steady_levels_is_noise_and_that_of_others_is_not() -> None:
    levels = BANDS.levels(BANDS.spectra(noise(1, 403 * HOP)))
    smooth = levels.mean(1, keepdim=True).expand_as(levels)
    found = BANDS.noise_in(levels - smooth, levels)[..., 4:]
    assert found.mean().item() == pytest.approx(0.9, abs=0.1)  # large errors count as 2 deviations
    assert BANDS.noise_in(torch.zeros_like(levels), levels).max() == 0
    moving = levels + 3 * torch.sin(torch.arange(400) / 5)[None, :, None]
    assert BANDS.noise_in(levels - smooth, moving).max() == 0


def test_roughness_tells_even_bands_from_noise_and_noise_from_tones() -> None:
    even = torch.full((1, NUM_BINS), 0.3)
    assert BANDS.roughness(even.to(torch.complex64)).abs().max() < 1e-3
    of_noise = BANDS.roughness(BANDS.spectra(noise(8, 203 * HOP)))
    assert of_noise[..., :SINGLE].abs().max() < 1e-3  # a bin is even
    for part in (slice(70, 90), slice(90, 110), slice(110, 127)):
        assert of_noise[..., part].mean().item() == pytest.approx(1, abs=0.1)
    tone = even.clone() * 0.01
    tone[:, 400] = 1
    band = int(np.abs(CENTRES - 400).argmin())
    assert BANDS.roughness(tone.to(torch.complex64))[0, band] == 2


def test_noise_is_as_loud_on_average_as_its_level_says() -> None:
    spectra = BANDS.noise(first=0, num_spectra=1000)
    assert spectra.abs().square().mean().item() == pytest.approx(1, abs=0.02)
    assert spectra.abs().mean().item() == pytest.approx(NOISE_LEVEL, abs=0.01)
    assert BANDS.noise_levels(spectra)[:, 4:].exp().mean().item() == pytest.approx(1, abs=0.01)


def test_noise_depends_on_the_number_of_a_spectrum_alone() -> None:
    whole = BANDS.noise(first=0, num_spectra=50)
    assert torch.equal(whole[20:27], BANDS.noise(first=20, num_spectra=7))
    assert BANDS.noise(first=20, num_spectra=0).shape == (0, NUM_BINS)


def test_silence_is_drawn_as_silence() -> None:
    levels = BANDS.levels(BANDS.spectra(torch.zeros(1, 6 * HOP)))
    assert torch.equal(levels, torch.full_like(levels, FLOOR).log())
    nothing = torch.zeros_like(levels)
    drawn = BANDS.magnitudes(levels, nothing, nothing, BANDS.noise(first=0, num_spectra=3))
    assert drawn.max() < 1e-8


def test_no_band_is_louder_than_a_sine_at_full_scale() -> None:
    silent = torch.full((1, 7, NUM_BANDS), math.log(FLOOR))
    nothing, noisy = torch.zeros_like(silent), BANDS.noise(first=0, num_spectra=7)
    for band in (5, 40, NUM_BANDS - 10):
        levels = silent.clone()
        levels[..., band] = 4.0
        drawn = BANDS.magnitudes(levels, nothing, nothing, noisy)
        tone = torch.sin(2 * math.pi * CENTRES[band] / (2 * NUM_BINS) * torch.arange(10 * HOP))
        measured = BANDS.levels(BANDS.spectra(tone[None]))[0, 2:5, band].max()
        assert BANDS.levels(drawn.to(torch.complex64))[..., band].max() <= measured + 0.15


def test_no_spectrum_is_louder_than_a_square_wave() -> None:
    levels = torch.full((1, 7, NUM_BANDS), 4.0)
    nothing, noisy = torch.zeros_like(levels), BANDS.noise(first=0, num_spectra=7)
    power = BANDS.magnitudes(levels, nothing, nothing, noisy).square().sum(-1) / NUM_BINS
    torch.testing.assert_close(power, torch.ones(1, 7))


def test_what_sound_has_is_drawn_as_it_was() -> None:
    """The limits leave full-scale noise and tones alone."""
    tone = torch.sin(2 * math.pi * 440 / 24_000 * torch.arange(20 * HOP))[None]
    for sound in (tone, noise(1, 20 * HOP).clamp(-1, 1)):
        levels = BANDS.levels(BANDS.spectra(sound))
        assert (levels <= BANDS.ceiling + 0.05).all()
