"""Windows and mel bands against their definitions."""

import pytest
import torch
from torch.utils import _device

from audio_tokenizers.spectra import mel_filterbank, windows_of_hops


def test_windows_are_the_frames_of_unfold() -> None:
    samples = torch.randn(2, 60)
    windows = windows_of_hops(samples.unflatten(1, (12, 5)), overlap=4)
    assert torch.equal(windows, samples.unfold(1, 20, 5))


def test_mel_bands_cover_every_bin_and_rise_in_frequency() -> None:
    bank = mel_filterbank(num_mels=100, num_bins=480, sample_rate=24_000)
    assert (bank[:, 1:].sum(0) > 0).all()
    centres = bank.argmax(1)
    assert (centres.diff() >= 0).all()
    assert centres[0] <= 2
    assert centres[-1] > 440


def test_mel_bands_are_made_where_torch_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # The state that torch is in once it was first asked while transformers patched linspace.
    others = frozenset(_device._device_constructors() - {torch.linspace})
    monkeypatch.setattr(_device, "_device_constructors", lambda: others)
    with torch.device("meta"):
        assert mel_filterbank(num_mels=4, num_bins=8, sample_rate=800).is_meta
