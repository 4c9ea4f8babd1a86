"""The leveller, against pyloudnorm and against itself in other pieces."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch
from torch import Tensor

from lm_audio.renderers.limiter import Limiter
from lm_audio.renderers.loudness import TARGET, Leveller, integrated, k_weighting, subsonic_cut

RATE = 24_000


def noise(seconds: float, level: float, *, seed: int = 0, channels: int = 1) -> Tensor:
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal((channels, round(seconds * RATE))).astype(np.float32)
    return torch.from_numpy(samples * 10 ** (level / 20))


def levelled(samples: Tensor, *, piece: int | None = None, **settings: object) -> Tensor:
    leveller = Leveller(RATE, num_channels=len(samples), **settings)  # type: ignore[arg-type]
    pieces = samples.split(piece or samples.shape[1], dim=1)
    return torch.cat([*(leveller.push(one) for one in pieces), leveller.finish()], dim=1)


def loudness(samples: Tensor, rate: int = RATE) -> float:
    meter = pyloudnorm.Meter(rate, filter_class="DeMan")
    return float(meter.integrated_loudness(samples.T.double().numpy()))


def test_weighting_equals_the_filters_of_the_standard_at_48_khz() -> None:
    z = np.exp(-1j * np.pi * np.arange(513) / 512)
    shelf = np.polyval([1.19839281085285, -2.69169618940638, 1.53512485958697], z)
    shelf /= np.polyval([0.73248077421585, -1.69065929318241, 1], z)
    high_pass = (1 - z) ** 2 / np.polyval([0.99007225036621, -1.99004745483398, 1], z)
    # The table of the standard leaves the high-pass's gain above 1 as it is.
    found = k_weighting(48_000, num_bins=513)
    np.testing.assert_allclose(np.abs(found), np.abs(shelf * high_pass), rtol=6e-3, atol=1e-9)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_integrated_loudness_is_that_of_pyloudnorm(rate: int) -> None:
    rng = np.random.default_rng(1)
    envelope = np.repeat(10 ** (rng.uniform(-40, 0, 50) / 20), rate // 10)
    samples = (0.3 * envelope * rng.standard_normal(len(envelope))).astype(np.float32)[None]
    leveller = Leveller(rate, num_channels=1)
    count = samples.shape[1] // leveller._hop
    hops = np.split(samples[:, : count * leveller._hop], count, axis=1)
    power = np.array([leveller._measured(hop).power.mean() for hop in hops])
    assert integrated(power) == pytest.approx(loudness(torch.from_numpy(samples), rate), abs=0.1)


@pytest.mark.parametrize("level", [-45.0, -30.0, -16.0, 3.0])
def test_steady_sound_reaches_the_target(level: float) -> None:
    assert loudness(levelled(noise(3.0, level))) == pytest.approx(TARGET, abs=0.5)


def test_sound_that_grows_reaches_the_target() -> None:
    samples = torch.cat([noise(2.0, -40.0), noise(3.0, -10.0)], dim=1)
    assert loudness(levelled(samples)) == pytest.approx(TARGET, abs=1.5)


def test_a_sound_that_ends_silence_reaches_the_target() -> None:
    samples = torch.cat([noise(4.7, -60.0), noise(0.3, -30.0)], dim=1)
    assert loudness(levelled(samples)) == pytest.approx(TARGET, abs=1.0)


@pytest.mark.parametrize("every", [0.05, 0.2, 0.5])
def test_the_release_of_the_limiter_is_foreseen(every: float) -> None:
    """Clicks: the limiter, which recovers slowly after each, makes the sound between softer."""
    samples = noise(4.0, -40.0)
    samples[:, :: round(every * RATE)] += 0.1
    limiter = Limiter(RATE, num_channels=1)
    found = torch.cat([limiter.push(levelled(samples)), limiter.finish()], dim=1)
    assert loudness(found) == pytest.approx(TARGET, abs=0.5)


def test_silence_stays_as_it_is() -> None:
    samples = noise(2.0, -60.0)
    assert torch.equal(levelled(samples, before=noise(1.0, -60.0)), samples)
    assert float(levelled(samples).std()) == pytest.approx(float(samples.std()), rel=0.01)
    nothing = torch.zeros(1, RATE)
    assert torch.equal(levelled(nothing), nothing)


@pytest.mark.parametrize("hertz", [5, 9, 14])
def test_what_nobody_hears_does_not_keep_the_sound_soft(hertz: float) -> None:
    """The bundled model's clocks have up to 94 % of their energy below 20 Hz."""
    time = torch.arange(4 * RATE) / RATE
    rumble = 0.6 * torch.sin(2 * math.pi * hertz * time)[None]
    samples = rumble + noise(4.0, -36.0)
    limiter = Limiter(RATE, num_channels=1)
    found = torch.cat([limiter.push(levelled(samples)), limiter.finish()], dim=1)
    assert loudness(found) == pytest.approx(TARGET, abs=0.5)
    assert float(found.abs().max()) < 1.0
    beside = levelled(samples, before=noise(2.0, -30.0))  # joins sound that may have it, too
    assert float(beside.std()) > 5 * float(noise(4.0, -36.0).std())


def test_audible_bass_stays() -> None:
    for hertz, loss in ((40, 0.8), (80, 0.1), (1000, 0.01)):
        response = subsonic_cut(RATE, 2401)
        found = float(np.interp(hertz, np.linspace(0, RATE / 2, 2401), np.abs(response)))
        assert -20 * math.log10(found) <= loss


@pytest.mark.parametrize("piece", [1, 777, 2400, 50_000])
def test_pieces_change_nothing(piece: int) -> None:
    samples = torch.cat([noise(0.7, -40.0), noise(1.13, -5.0)], dim=1)
    samples = samples[:, : 3000 + 17] if piece == 1 else samples
    assert torch.equal(levelled(samples, piece=piece), levelled(samples))


@pytest.mark.parametrize("num_samples", [1, 5, 2399, 2400, 2401, 26_400])
def test_any_length_is_kept(num_samples: int) -> None:
    assert levelled(noise(2.0, -20.0)[:, :num_samples]).shape == (1, num_samples)


def test_channels_share_their_gain() -> None:
    samples = noise(2.0, -30.0)
    louder = levelled(torch.cat([samples, samples / 4]))
    torch.testing.assert_close(louder[0], 4 * louder[1], rtol=1e-4, atol=1e-6)


def test_what_follows_a_prompt_takes_its_loudness() -> None:
    prompt = noise(2.0, -33.0)
    following = levelled(noise(3.0, -12.0, seed=1), before=prompt)
    assert loudness(following) == pytest.approx(loudness(prompt), abs=0.5)


def test_the_overlap_gets_the_first_gain() -> None:
    prompt = noise(2.0, -33.0)
    rendered = torch.cat([torch.full((1, 960), 0.5), noise(2.0, -12.0, seed=1)], dim=1)
    following = levelled(rendered, before=prompt, overlap=960)
    gain = following[:, :960] / 0.5
    torch.testing.assert_close(gain, gain[:, :1].expand_as(gain))
    assert 20 * gain[0, 0].log10() == pytest.approx(-21.0, abs=1.0)


def test_memory_is_bounded() -> None:
    leveller = Leveller(RATE, num_channels=1)
    for seed in range(30):
        leveller.push(noise(1.0, -20.0, seed=seed))
    assert len(leveller._past) <= 100
    assert len(leveller._ahead) <= 11
