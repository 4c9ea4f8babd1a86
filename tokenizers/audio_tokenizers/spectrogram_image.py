"""Sound as the spectrogram images of Riffusion, and back.

A column is the mel spectrum of a window, from low frequencies at the bottom to high ones at the
top; loud is dark. Values are shares of the loudest one to the power of 1/4, in 8 bits. Phases are
not in the image: they are found again by Griffin-Lim.

Column i is centred at sample i * hop.

Shapes: C channels, N samples, M mel bands, T columns, F bins.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.griffin_lim import GriffinLim
from audio_tokenizers.spectra import mel_filterbank

FULL_SCALE = 32_768
"""Riffusion's amplitudes are those of 16-bit samples."""
USUAL_MAXIMUM = 30e6 / FULL_SCALE
"""The magnitude of a black pixel in images that do not state it."""
_UPDATES = 10  # of the mel inversion; more change nothing that can be measured
_COLUMNS = 64  # that are inverted at once, fixed so that pushes do not change samples


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """How an image is made.

    Args:
        step_ms, window_ms: of the columns.
        padded_ms: length of the Fourier transform, which determines the bins that bands sum up.
        low, high: the ends of the mel scale in Hz.
        power: of the magnitudes in an image.
        stereo: the channels are in green and blue; else all colours are equal.
    """

    sample_rate: int = 44_100
    step_ms: int = 10
    window_ms: int = 100
    padded_ms: int = 400
    num_mels: int = 512
    low: float = 0
    high: float = 10_000
    power: float = 0.25
    stereo: bool = False

    def __post_init__(self) -> None:
        for name in ("step_ms", "window_ms", "padded_ms"):
            if getattr(self, name) < 1 or getattr(self, name) * self.sample_rate % 1000:
                raise ValueError(
                    f"{name} must be a whole number of samples at {self.sample_rate} Hz, got "
                    f"{getattr(self, name)}."
                )
        if not self.step_ms <= self.window_ms <= self.padded_ms or self.padded_ms % self.window_ms:
            raise ValueError(
                "step_ms must be at most window_ms, and padded_ms a multiple of that, got "
                f"{self.step_ms}, {self.window_ms} and {self.padded_ms}."
            )
        if not (0 <= self.low < self.high <= self.sample_rate / 2 and self.num_mels > 0):
            raise ValueError(
                f"Mel bands need 0 <= low < high <= {self.sample_rate / 2:g} Hz, got {self.low:g} "
                f"and {self.high:g}."
            )
        if not self.power > 0:
            raise ValueError(f"power must be above 0, got {self.power}.")

    @property
    def num_channels(self) -> int:
        return 2 if self.stereo else 1

    @property
    def hop_length(self) -> int:
        return self.step_ms * self.sample_rate // 1000

    @property
    def window_length(self) -> int:
        return self.window_ms * self.sample_rate // 1000

    @property
    def fft_length(self) -> int:
        return self.padded_ms * self.sample_rate // 1000

    @property
    def griffin_lim(self) -> GriffinLim:
        return GriffinLim(window_length=self.window_length, hop_length=self.hop_length)


def mel_magnitudes(samples: Tensor, settings: ImageSettings) -> Tensor:
    """The mel spectrogram [C, M, T] of samples [C, N]; the last of T columns may be incomplete."""
    hop, length = settings.hop_length, settings.window_length
    N = samples.shape[1]
    missing = max(0, length // 2 + 1 - N)  # reflection needs as many samples
    padded = F.pad(F.pad(samples, (0, missing))[:, None], (length // 2,) * 2, "reflect")[:, 0]
    window = torch.hann_window(length, device=samples.device)
    bands = _bands(settings).to(samples.device)
    made = []
    for frames in padded.unfold(1, length, hop)[:, : -(-N // hop)].split(64, dim=1):
        spectra = torch.fft.rfft(frames * window, settings.fft_length)
        made.append(spectra[..., : bands.shape[1]].abs() @ bands.T)
    return torch.cat(made, dim=1).transpose(1, 2)


def bin_magnitudes(mel: Tensor, settings: ImageSettings) -> Tensor:
    """The magnitudes [C, T, F] whose mel spectrogram is near a given one [C, M, T].

    Non-negative least squares by multiplicative updates, from the bands interpolated. The bins are
    those of a transform as long as the window: more of them add no information.
    """
    bands = _bands(settings).to(mel.device)
    down, up = bands.to_sparse(), bands.T.to_sparse()
    C, M, T = mel.shape
    wanted = mel.transpose(0, 1).reshape(M, C * T)
    aim = up @ wanted
    x = (up @ (wanted / bands.sum(dim=1, keepdim=True))) / bands.sum(dim=0)[:, None].clamp(min=1e-9)
    for _ in range(_UPDATES):
        x = x * aim / (up @ (down @ x)).clamp(min=1e-20)
    x = x[:: settings.padded_ms // settings.window_ms].unflatten(1, (C, T)).permute(1, 2, 0)
    return F.pad(x, (0, settings.griffin_lim.num_bins - x.shape[-1]))


def to_image(mel: Tensor, settings: ImageSettings, *, maximum: float) -> Tensor:
    """An image [3, M, T] within 0..1 of a mel spectrogram [C, M, T].

    Args:
        maximum: the magnitude of a black pixel.
    """
    share = (mel / maximum).clamp(0, 1) ** settings.power
    image = (1 - share).flip(1)
    if not settings.stereo:
        return image.expand(3, -1, -1)
    return torch.cat([torch.zeros_like(image[:1]), image])


def from_image(image: Tensor, settings: ImageSettings, *, maximum: float) -> Tensor:
    """The mel spectrogram [C, M, T] of an image [3, M, T] within 0..1."""
    channels = image[1:] if settings.stereo else image.mean(dim=0, keepdim=True)
    return (1 - channels.flip(1)).clamp(0, 1) ** (1 / settings.power) * maximum


class ImageSound:
    """The sound of an image in a stream of columns.

    Args:
        maximum: the magnitude of a black pixel.
    """

    def __init__(self, settings: ImageSettings, *, maximum: float = USUAL_MAXIMUM) -> None:
        self._settings, self._maximum = settings, maximum
        self._phases = settings.griffin_lim.stream(settings.num_channels)
        self._waiting = torch.zeros(3, settings.num_mels, 0)

    def push(self, image: Tensor) -> Tensor:
        """Takes columns [3, M, T >= 0], returns the samples [C, N >= 0] that are final."""
        held = torch.cat([self._waiting.to(image.device), image], dim=2)
        whole = held.shape[2] // _COLUMNS * _COLUMNS
        self._waiting = held[:, :, whole:].clone()
        made = [self._sound(block) for block in held[:, :, :whole].split(_COLUMNS, dim=2)]
        return torch.cat(made, dim=1)

    def finish(self) -> Tensor:
        """The remaining samples: a hop for each column in all."""
        return torch.cat([self._sound(self._waiting), self._phases.finish()], dim=1)

    def _sound(self, columns: Tensor) -> Tensor:
        return self._phases.push(image_magnitudes(columns, self._settings, maximum=self._maximum))


def image_magnitudes(image: Tensor, settings: ImageSettings, *, maximum: float) -> Tensor:
    """The magnitudes [C, T, F] of an image [3, M, T], for Griffin-Lim."""
    return bin_magnitudes(from_image(image, settings, maximum=maximum), settings)


@lru_cache(maxsize=2)
def _bands(settings: ImageSettings) -> Tensor:
    """The weights [M, F] of bins up to the highest band."""
    num_bins = settings.fft_length // 2
    bands = mel_filterbank(
        num_mels=settings.num_mels,
        num_bins=num_bins,
        sample_rate=settings.sample_rate,
        low=settings.low,
        high=settings.high,
    )
    return bands[:, : int(settings.high * 2 * num_bins / settings.sample_rate) + 1].clone()
