"""Chroma: which of the twelve pitch classes sounds, as MusicGen Melody takes it.

The energy of a spectrogram is added up by pitch class, with weights as in librosa's chroma filters:
a bell around each class, and less weight far from the middle octaves.

Shapes: N samples, F frames, C pitch classes.
"""

import math

import torch
from torch import Tensor

A4 = 440.0  # Hz
_CENTRE, _WIDTH = 5.0, 2.0  # of the octaves that count most, above A at 27.5 Hz


def strongest_classes(
    samples: Tensor, *, sample_rate: int, window: int, num_classes: int
) -> Tensor:
    """The strongest pitch class of each frame of samples [N], C first, as one-hot rows [F, C].

    Args:
        window: samples per frame; frames are a quarter of it apart.
    """
    missing = window - len(samples)
    if missing > 0:
        left = missing // 2
        samples = torch.nn.functional.pad(samples, (left, missing - left))
    hann = torch.hann_window(window)
    spectrum = torch.stft(samples, window, window // 4, window=hann, return_complex=True)
    spectrum = spectrum / hann.square().sum().sqrt()
    filters = chroma_filters(sample_rate=sample_rate, window=window, num_classes=num_classes)
    energy = filters @ spectrum.abs().square()  # [C, F]
    largest = energy.amax(dim=0, keepdim=True).clamp(min=1e-6)
    return torch.nn.functional.one_hot((energy / largest).argmax(dim=0), num_classes).float()


def chroma_filters(*, sample_rate: int, window: int, num_classes: int) -> Tensor:
    """The weight of each frequency of a spectrum in each pitch class: [C, window // 2 + 1]."""
    frequency = torch.arange(1, window, dtype=torch.float64) * sample_rate / window
    pitch = num_classes * (frequency / (A4 / 16)).log2()  # in steps above A at 27.5 Hz
    pitch = torch.cat([pitch[:1] - 1.5 * num_classes, pitch])  # a pitch for 0 Hz
    widths = torch.cat([pitch.diff().clamp(min=1), torch.ones(1, dtype=torch.float64)])
    distance = pitch - torch.arange(num_classes, dtype=torch.float64)[:, None]
    half = round(num_classes / 2)
    distance = (distance + half).remainder(num_classes) - half  # to the nearest octave
    bells = torch.exp(-2 * (distance / widths).square())
    bells = bells / bells.norm(dim=0, keepdim=True)
    bells = bells * torch.exp(-0.5 * ((pitch / num_classes - _CENTRE) / _WIDTH).square())
    from_c = bells.roll(-3 * (num_classes // 12), dims=0)  # A is the first until here
    return from_c[:, : window // 2 + 1].float()


def num_chroma_frames(num_samples: int, *, window: int) -> int:
    """The number of frames of this many samples."""
    return math.floor(max(num_samples, window) / (window // 4)) + 1
