"""The spectral distance against its definition, and the discriminators of waveforms."""

import numpy as np
import pytest
import torch
from scipy.signal import stft

from lm_audio.training.discriminators import adversarial_loss, discriminator_loss, feature_distance
from lm_audio.training.waveform_discriminators import (
    WaveformDiscriminator,
    WaveformDiscriminatorConfig,
)
from lm_audio.training.waveform_losses import SCALES, spectral_distance


def test_the_distance_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    true, made = torch.randn(2, 2, 5000), torch.randn(2, 2, 5000)
    terms = []
    for scale in SCALES:
        spectra = []
        for x in (made, true):
            padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (scale // 2,) * 2), "reflect")
            found = stft(
                padded, nperseg=scale, noverlap=scale * 3 // 4, boundary=None, padded=False
            )[2]
            # scipy scales by the sum of the window, we by the root of the length
            spectra.append(np.abs(found) * np.hanning(scale + 1)[:-1].sum() / scale**0.5)
        relative = np.linalg.norm(spectra[0] - spectra[1]) / np.linalg.norm(spectra[1])
        logarithms = np.abs(np.log(spectra[0] + 1e-7) - np.log(spectra[1] + 1e-7)).mean()
        terms.append(relative + logarithms)
    assert float(spectral_distance(made, true)) == pytest.approx(np.mean(terms), rel=1e-4)


def test_equal_waveforms_have_no_distance_and_silence_has_a_gradient() -> None:
    true = torch.randn(1, 1, 4000)
    assert float(spectral_distance(true, true)) == 0
    made = torch.zeros(1, 1, 4000, requires_grad=True)
    spectral_distance(made, true).backward()
    assert made.grad is not None
    assert made.grad.isfinite().all()
    spectral_distance(made, torch.zeros(1, 1, 4000)).backward()
    assert made.grad.isfinite().all()


def test_scales_longer_than_the_waveform_are_left_out() -> None:
    true, made = torch.randn(1, 1, 400), torch.randn(1, 1, 400)
    wanted = spectral_distance(made, true, scales=(512, 256, 128))
    assert torch.equal(spectral_distance(made, true), wanted)
    with pytest.raises(ValueError, match=r"60 samples are too few for scales of 128"):
        spectral_distance(made[..., :60], true[..., :60])


def test_a_discriminator_learns_to_tell_tones_from_noise() -> None:
    torch.manual_seed(0)
    config = WaveformDiscriminatorConfig(width=4, num_layers=2, num_scales=2, periods=(2, 3))
    judge = WaveformDiscriminator(config, num_channels=2)
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    time = torch.arange(1000) / 1000

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        frequency = 20 + 80 * torch.rand(4, 2, 1)
        return torch.sin(2 * torch.pi * frequency * time), 0.7 * torch.randn(4, 2, 1000)

    for _ in range(60):
        real, fake = batch()
        optimizer.zero_grad()
        discriminator_loss(judge(real), judge(fake)).backward()
        optimizer.step()
    real, fake = batch()
    assert judge(real).logits.mean() > judge(fake).logits.mean() + 0.5
    assert adversarial_loss(judge(fake)) > adversarial_loss(judge(real))
    assert feature_distance(judge(real), judge(real)) == 0
    # Two or three layers of each of two rates, two of each of two periods.
    assert len(judge(real).features) == 2 * 3 + 2 * 2
