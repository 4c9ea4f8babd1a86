"""Spectrogram images: Riffusion's recipe by another way, and back to a sound like the first."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from audio_tokenizers.spectrogram_image import (
    ImageSettings,
    ImageSound,
    bin_magnitudes,
    from_image,
    mel_magnitudes,
    to_image,
)

SMALL = ImageSettings(sample_rate=8000, num_mels=128, high=3000)


def sound(kind: str, *, rate: int = 8000, seconds: float = 2.0) -> Tensor:
    """Synthetic sounds [1, N]: a chord, beats of noise, or a voice-like glide."""
    time = torch.arange(round(seconds * rate)) / rate
    if kind == "chord":
        return sum(0.2 * torch.sin(2 * torch.pi * f * time) for f in (220, 277, 330, 880))[None]  # type: ignore[union-attr]
    if kind == "beats":
        noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
        return (0.3 * noise * torch.exp(-12 * (time % 0.5)))[None]
    phase = 2 * torch.pi * torch.cumsum(150 + 60 * torch.sin(3 * time), dim=0) / rate
    return sum(0.3 / i * torch.sin(i * phase) for i in range(1, 9))[None]  # type: ignore[union-attr]


def htk_bands(settings: ImageSettings) -> np.ndarray:
    """Triangles on HTK's mel scale, as in its manual: [M, F]."""
    ends = 2595 * np.log10(1 + np.array([settings.low, settings.high]) / 700)
    edges = 700 * (10 ** (np.linspace(*ends, settings.num_mels + 2) / 2595) - 1)
    bins = np.linspace(0, settings.sample_rate / 2, settings.fft_length // 2 + 1)
    pairs = zip(edges, edges[1:], edges[2:], strict=False)
    return np.stack([np.interp(bins, triangle, [0, 1, 0]) for triangle in pairs])


def test_the_usual_settings_are_those_of_riffusion() -> None:
    usual = ImageSettings()
    assert (usual.fft_length, usual.window_length, usual.hop_length) == (17_640, 4410, 441)
    assert (usual.num_mels, usual.low, usual.high, usual.power) == (512, 0, 10_000, 0.25)


@pytest.mark.parametrize("settings", [SMALL, ImageSettings()], ids=["small", "usual"])
def test_mel_magnitudes_are_those_of_a_plain_formula(settings: ImageSettings) -> None:
    samples = sound("glide", rate=settings.sample_rate, seconds=0.7)
    spectra = torch.stft(
        samples,
        settings.fft_length,
        settings.hop_length,
        settings.window_length,
        torch.hann_window(settings.window_length),
        return_complex=True,
    )
    expected = torch.from_numpy(htk_bands(settings)).float() @ spectra.abs()
    found = mel_magnitudes(samples, settings)
    T = -(-samples.shape[1] // settings.hop_length)
    assert found.shape == (1, settings.num_mels, T)
    inner = slice(20, T - 20)  # stft reflects as much as the padded window at the ends
    torch.testing.assert_close(
        found[..., inner], expected[..., inner], atol=1e-3 * float(expected.max()), rtol=0
    )


def test_loud_is_dark_and_low_is_at_the_bottom() -> None:
    samples = 0.5 * torch.sin(2 * torch.pi * 200 * torch.arange(8000) / 8000)[None]
    mel = mel_magnitudes(samples, SMALL)
    image = to_image(mel, SMALL, maximum=float(mel.max()))
    assert image.shape == (3, 128, 100)
    assert torch.equal(image[0], image[1])
    darkest = int(image[0, :, 50].argmin())
    assert darkest > 90
    assert float(image.min()) == 0
    quarter = to_image(mel / 16, SMALL, maximum=float(mel.max()))
    torch.testing.assert_close(1 - quarter, (1 - image) / 2)
    torch.testing.assert_close(from_image(image, SMALL, maximum=float(mel.max())), mel)


def test_stereo_is_in_green_and_blue() -> None:
    stereo = replace(SMALL, stereo=True)
    mel = torch.rand(2, 128, 5)
    image = to_image(mel, stereo, maximum=1.0)
    assert float(image[0].abs().max()) == 0
    torch.testing.assert_close(from_image(image, stereo, maximum=1.0), mel)
    assert not torch.allclose(image[1], image[2])


def test_bins_sum_up_to_the_bands_again() -> None:
    """Every fourth bin is kept: their interpolation has nearly the bands that were given."""
    mel = mel_magnitudes(sound("glide"), SMALL)
    made = bin_magnitudes(mel, SMALL)
    assert made.shape == (1, 200, 401)
    assert float(made.min()) >= 0
    places = torch.arange(SMALL.fft_length // 2 + 1) / 4
    below = places.long().clamp(max=399)
    fine = torch.lerp(made[..., below], made[..., below + 1], places - below)
    again = (fine @ torch.from_numpy(htk_bands(SMALL)).float().T).transpose(1, 2)
    assert float((again - mel).norm() / mel.norm()) < 0.15


@pytest.mark.parametrize("kind", ["chord", "beats", "glide"])
def test_the_sound_of_an_image_has_that_image(kind: str) -> None:
    samples = sound(kind)
    mel = mel_magnitudes(samples, SMALL)
    maximum = float(mel.max())
    image = to_image(mel, SMALL, maximum=maximum)
    pixels = (255 * image).to(torch.uint8).float() / 255  # 8 bits, as in a file
    stream = ImageSound(SMALL, maximum=maximum)
    made = torch.cat([stream.push(pixels), stream.finish()], dim=1)
    assert made.shape == samples.shape
    again = to_image(mel_magnitudes(made, SMALL), SMALL, maximum=maximum)
    assert float((255 * (again - image)).abs().mean()) < 5
    inner = slice(10, -10)  # half windows at the ends are known from one side
    found = mel_magnitudes(made, SMALL)[..., inner]
    assert float((found - mel[..., inner]).norm() / mel[..., inner].norm()) < 0.13


@pytest.mark.parametrize("size", [1, 50, 64, 1000])
def test_a_stream_of_columns_gives_the_samples_of_a_whole_call(size: int) -> None:
    image = torch.rand(3, 128, 300, generator=torch.Generator().manual_seed(0))
    whole, parts = ImageSound(SMALL), ImageSound(SMALL)
    expected = torch.cat([whole.push(image), whole.finish()], dim=1)
    made = [parts.push(piece) for piece in image.split(size, dim=2)]
    assert torch.equal(torch.cat([*made, parts.finish()], dim=1), expected)
    assert ImageSound(SMALL).finish().shape == (1, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 22_050, "step_ms": 1}, "step_ms must be a whole number of samples"),
        ({"padded_ms": 150}, "padded_ms a multiple of that"),
        ({"high": 30_000}, "Mel bands need 0 <= low < high <= 22050"),
        ({"power": 0}, "power must be above 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageSettings(**settings)  # type: ignore[arg-type]
