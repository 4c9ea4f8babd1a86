"""Converts between sound and bands: the level around each frequency, every 10 ms.

Each low band is a single bin of the spectrum, to resolve pitches; the width of the others is
proportional to their frequency, as in hearing. Phases are discarded: see `phases.py`.

Shapes: B batch, N samples, J spectra.
"""

import math
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.frame_codec.layers import OVERLAP
from audio_tokenizers.acoustic.rows import row_linear
from audio_tokenizers.noise import noise_samples
from audio_tokenizers.spectra import windows_of_hops

FLOOR = 1e-3  # 1 is the level of white noise at full scale
STEADY, UNSTEADY = 2.0, 5.0  # variances of levels, relative to noise
SPAN = (51, 5)  # spectra and bands to average variances over
NEAR = (9, 5)  # spectra and bands to average errors over
NOISE_LEVEL = math.sqrt(math.pi) / 2  # the mean magnitude of a complex Gaussian of unit power


class Bands(nn.Module):
    """Measures the bands of sound, and synthesises spectra from bands."""

    window: Tensor
    measure: Tensor
    draw: Tensor
    ceiling: Tensor

    def __init__(self, *, num_bands: int, num_linear: int, hop: int) -> None:
        super().__init__()
        self.hop = hop
        window = torch.hann_window(OVERLAP * hop)
        measure, draw = band_weights(
            num_bands=num_bands, num_linear=num_linear, num_bins=OVERLAP * hop // 2
        )
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        self.register_buffer("measure", measure, persistent=False)
        self.register_buffer("draw", draw, persistent=False)
        self.register_buffer("ceiling", self._sine_levels(), persistent=False)

    @property
    def margin(self) -> int:
        """Samples that a window extends beyond its hop on each side."""
        return (OVERLAP - 1) * self.hop // 2

    def spectra(self, padded: Tensor) -> Tensor:
        """Samples [B, N] with both margins -> complex spectra [B, J, bins]."""
        windows = windows_of_hops(padded.unflatten(1, (-1, self.hop)), overlap=OVERLAP)
        return torch.fft.rfft(windows * self.window)[..., :-1]

    def levels(self, spectra: Tensor) -> Tensor:
        """Spectra [..., bins] -> the logarithm of the mean magnitude in each band [..., bands]."""
        return (row_linear(spectra.abs(), self.measure) + FLOOR).log()

    def noise(self, *, first: int, num_spectra: int) -> Tensor:
        """Spectra [num_spectra, bins] of white noise that depends only on their numbers."""
        device = self.window.device
        if num_spectra == 0:
            return torch.zeros(0, self.draw.shape[0], dtype=torch.complex64, device=device)
        samples = noise_samples(
            first=first * self.hop, count=(num_spectra + OVERLAP - 1) * self.hop, device=device
        )
        return self.spectra(samples[None])[0]

    def noise_levels(self, noise: Tensor) -> Tensor:
        """The log level of noise [J, bins] in each band, relative to its average."""
        return self.levels(noise) - math.log(NOISE_LEVEL)

    def roughness(self, spectra: Tensor) -> Tensor:
        """How much the bins of a band differ, [..., bins] -> [..., bands]: 0 for equal bins or a
        single one, about 1 for noise, 2 for tones."""
        return (self._unevenness(spectra) / self._noise_unevenness.clamp(min=1e-3)).clamp(0, 2)

    def noise_in(self, error: Tensor, levels: Tensor) -> Tensor:
        """The noise in an error of levels [B, J, bands], relative to the deviation of noise, up to
        1. Errors count fully where levels are steady, and not at all where they change."""
        share = (UNSTEADY - self.unsteadiness(levels)) / (UNSTEADY - STEADY)
        squared = (error / self._noise_deviation).square()
        around = _mean_around(squared, spectra=NEAR[0], bands=NEAR[1])
        return share.clamp(0, 1) * around.sqrt().clamp(max=1)

    def unsteadiness(self, levels: Tensor) -> Tensor:
        """The variance of levels [B, J, bands] within half a second, relative to noise."""
        mean = _mean_around(levels, spectra=SPAN[0], bands=1)
        variance = _mean_around((levels - mean).square(), spectra=SPAN[0], bands=SPAN[1])
        usual = self._noise_deviation.square().expand_as(levels)
        return variance / _mean_around(usual, spectra=1, bands=SPAN[1])

    def magnitudes(
        self, levels: Tensor, roughness: Tensor, noisiness: Tensor, noise: Tensor
    ) -> Tensor:
        """Magnitudes [B, J, bins] with these levels and textures.

        A language model can choose tokens for which the decoder predicts levels that no sound
        within -1..1 has. So a band is limited to the level of a sine at full scale, and a spectrum
        to the power of a square wave.

        Args:
            levels, roughness, noisiness: [B, J, bands]. Within a band, roughness 0 is smooth and 1
                is like noise. Noisiness scales how much a band's level follows that of the noise.
            noise: [J, bins]
        """
        louder = self.noise_levels(noise)
        inside = (noise.abs() / NOISE_LEVEL + FLOOR).log() - row_linear(louder, self.draw)
        varied = row_linear(levels.minimum(self.ceiling) + noisiness * louder, self.draw)
        drawn = varied + row_linear(roughness, self.draw) * inside
        magnitudes = (drawn.exp() - FLOOR).clamp(min=0)
        power = row_linear(magnitudes.square(), torch.ones_like(self.draw[:, :1]).T)
        power = power * (2 / len(self.window))  # the mean square of the samples under the window
        return magnitudes / power.sqrt().clamp(min=1)

    def _sine_levels(self) -> Tensor:
        """The level of each band [bands] for a full-scale sine in that band."""
        main = torch.eye(self.measure.shape[1]) * (self.window.sum() / 2)
        side = (main.roll(1, 0) + main.roll(-1, 0)) / 2  # of a Hann window
        return ((main + side) @ self.measure.T + FLOOR).amax(0).log()

    def _unevenness(self, spectra: Tensor) -> Tensor:
        """The log of the mean of a band's bins, minus the mean of their logs."""
        return self.levels(spectra) - row_linear((spectra.abs() + FLOOR).log(), self.measure)

    @cached_property
    def _noise_unevenness(self) -> Tensor:
        return self._unevenness(self.noise(first=0, num_spectra=2000)).mean(0)

    @cached_property
    def _noise_deviation(self) -> Tensor:
        """Standard deviation of the levels of noise [bands]."""
        return self.levels(self.noise(first=0, num_spectra=2000)).std(0).clamp(min=0.05)


def _mean_around(x: Tensor, *, spectra: int, bands: int) -> Tensor:
    """Moving averages of [B, J, bands] over odd numbers of spectra and bands; fewer at edges."""
    return F.avg_pool2d(x, (spectra, bands), 1, (spectra // 2, bands // 2), count_include_pad=False)


def band_weights(*, num_bands: int, num_linear: int, num_bins: int) -> tuple[Tensor, Tensor]:
    """Weights that average bins into bands [bands, bins], and that interpolate bands linearly to
    bins [bins, bands].

    Args:
        num_linear: number of first bands with one bin each; the rest are log-spaced.
    """
    low = torch.arange(num_linear, dtype=torch.float32)
    steps = torch.arange(1, num_bands - num_linear + 1) / (num_bands - num_linear)
    last = num_linear - 1
    centres = torch.cat([low, last * ((num_bins - 1) / last) ** steps])
    bins = torch.arange(num_bins, dtype=torch.float32)
    upper = torch.searchsorted(centres, bins).clamp(1, num_bands - 1)
    share = (bins - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    draw = F.one_hot(upper, num_bands) * share[:, None]
    draw = draw + F.one_hot(upper - 1, num_bands) * (1 - share[:, None])
    measure = draw.T / draw.sum(0)[:, None]
    return measure, draw
