"""RAVE's encoder, decoder and noise synthesiser, over rows of bands.

Shapes: B batch, R rows of bands, C channels, M bands, T frames, D width, J frames of noise.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from audio_tokenizers.acoustic.rave.config import RaveConfig
from audio_tokenizers.acoustic.rave.layers import (
    VECTOR,
    Activation,
    Chain,
    Conv,
    Downsample,
    Layer,
    Residual,
    RowStream,
    Upsample,
    pointwise,
)
from audio_tokenizers.acoustic.stream_layers import ChainStream, SumStream
from audio_tokenizers.noise import noise_samples, uniform_samples


class Encoder(Layer):
    """Bands [B, R, C * M] to frames [B, T, D]; of a Gaussian model, D means and D scales."""

    def __init__(self, config: RaveConfig) -> None:
        super().__init__()
        causal, widths = config.causal, config.widths
        bands = config.num_channels * config.num_bands
        layers: list[Layer] = [Conv(bands, widths[0], kernel=7, causal=causal)]
        for i, ratio in enumerate(config.ratios):
            layers += [_unit(widths[i], dilation=d, causal=causal) for d in config.dilations[i]]
            layers += [
                Activation(),
                Downsample(widths[i], widths[i + 1], ratio=ratio, causal=causal),
            ]
        out = config.latent_size * (2 if config.bottleneck == "gaussian" else 1)
        layers += [Activation(), Conv(widths[-1], out, kernel=3, causal=causal)]
        self.net = Chain(layers)

    def stream(self) -> RowStream:
        return self.net.stream()

    def delay(self, missing: Fraction) -> Fraction:
        return self.net.delay(missing)


class Decoder(Layer):
    """Frames [B, T, D] to bands [B, R, C * M]."""

    def __init__(self, config: RaveConfig) -> None:
        super().__init__()
        causal, widths = config.causal, config.widths
        self.noise_channels = config.noise_channels
        width = config.latent_size + config.noise_channels
        layers: list[Layer] = [Conv(width, widths[-1], kernel=3, causal=causal)]
        for i, ratio in reversed(list(enumerate(config.ratios))):
            layers += [
                Activation(),
                Upsample(widths[i + 1], widths[i], ratio=ratio, causal=causal),
            ]
            layers += [_unit(widths[i], dilation=d, causal=causal) for d in config.dilations[i]]
        self.net = Chain([*layers, Activation()])
        bands = config.num_channels * config.num_bands
        self.wave = Conv(widths[0], 2 * bands, kernel=7, causal=causal)
        with torch.no_grad():  # begins with a quiet sound
            self.wave.weight.mul_(0.1)
        self.noise = NoiseSynthesiser(config) if config.noise_amplitudes else None

    def stream(self) -> RowStream:
        outputs: list[RowStream] = [ChainStream([self.wave.stream(), _Gate()])]
        if self.noise is not None:
            outputs.append(self.noise.stream())
        inputs: list[RowStream] = [_NoiseChannels(self.noise_channels)]
        return ChainStream([*inputs, self.net.stream(), SumStream(outputs, dim=1)])

    def delay(self, missing: Fraction) -> Fraction:
        hidden = self.net.delay(missing)
        wave = self.wave.delay(hidden)
        return wave if self.noise is None else max(wave, self.noise.delay(hidden))


class NoiseSynthesiser(Layer):
    """White noise through filters that the decoder predicts, one per band and frame of noise.

    Each band's noise is a function of its row, so it is the same wherever a stream begins.
    """

    def __init__(self, config: RaveConfig) -> None:
        super().__init__()
        self.bands = config.num_channels * config.num_bands
        self.amplitudes = config.noise_amplitudes
        self.frame_rows = math.prod(config.noise_ratios)
        layers: list[Layer] = []
        for ratio in config.noise_ratios:
            layers += [
                Downsample(config.capacity, config.capacity, ratio=ratio, causal=config.causal),
                Activation(),
            ]
        out = self.bands * self.amplitudes
        layers.append(Conv(config.capacity, out, kernel=3, causal=config.causal))
        self.net = Chain(layers)

    def stream(self) -> RowStream:
        return ChainStream([self.net.stream(), _NoiseStream(self)])

    def delay(self, missing: Fraction) -> Fraction:
        return Fraction(math.ceil(self.net.delay(missing)) * self.frame_rows)

    def synthesise(self, predicted: Tensor, *, first: int) -> Tensor:
        """Predictions [B, J, C * M * amplitudes] from frame `first` on -> rows [B, R, C * M]."""
        B, J, _ = predicted.shape
        spectra = pointwise(_amplitude, predicted.float()).unflatten(2, (self.bands, -1))
        taps = impulse_responses(spectra)  # [B, J, C * M, L]
        L, rows = taps.shape[-1], self.frame_rows
        start, count = first * rows - L // 2, J * rows + L - 1
        noise = uniform_samples(
            first=start * self.bands, count=count * self.bands, device=predicted.device
        ).unflatten(0, (count, self.bands))
        total = predicted.new_zeros(B, J, rows, self.bands, dtype=torch.float32)
        for i in range(L):
            shifted = noise[i : i + J * rows].unflatten(0, (J, rows))
            total = total + shifted * taps[:, :, None, :, L - 1 - i]
        return total.flatten(1, 2)


def impulse_responses(amplitudes: Tensor) -> Tensor:
    """Amplitudes at A frequencies [..., A] -> centred, windowed filters [..., 2 * A - 1].

    The sums are written out, so that a filter does not depend on the number of filters.
    """
    A = amplitudes.shape[-1]
    distance = torch.arange(1 - A, A, dtype=torch.float64)
    window = torch.hann_window(2 * A + 1, periodic=False, dtype=torch.float64)[1:-1]
    frequency = torch.arange(A, dtype=torch.float64)[:, None] / (2 * (A - 1))
    # The inverse of a real, even spectrum: its inner frequencies count twice.
    weight = torch.full((A, 1), 2.0, dtype=torch.float64)
    weight[0] = weight[-1] = 1
    basis = weight * torch.cos(2 * math.pi * frequency * distance) / (2 * (A - 1)) * window
    basis = basis.to(amplitudes)
    total = amplitudes[..., :1] * basis[0]
    for i in range(1, A):
        total = total + amplitudes[..., i : i + 1] * basis[i]
    return total


class _NoiseStream:
    def __init__(self, synthesiser: NoiseSynthesiser) -> None:
        self._synthesiser = synthesiser
        self._next = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        rows = self._synthesiser.synthesise(x, first=self._next)
        self._next += x.shape[1]
        return rows


class _NoiseChannels:
    """Appends channels of counted white noise to frames."""

    def __init__(self, num_channels: int) -> None:
        self._num_channels = num_channels
        self._next = 0

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        if self._num_channels == 0:
            return x
        noise = gaussian_rows(self._next, x.shape[1], self._num_channels, device=x.device)
        self._next += x.shape[1]
        return torch.cat([x, noise.to(x.dtype).expand(len(x), -1, -1)], dim=2)


class _Gate:
    """Two halves [B, R, 2 * C * M] to bands: the first times the second's gate, limited."""

    def step(self, x: Tensor, *, last: bool) -> Tensor:  # noqa: ARG002
        wave, gate = x.float().chunk(2, dim=2)
        return pointwise(torch.tanh, wave * pointwise(torch.sigmoid, gate.contiguous()))


def gaussian_rows(first: int, count: int, width: int, *, device: torch.device) -> Tensor:
    """Gaussian noise [count, width] that depends only on the numbers of its rows."""
    whole = -(-width // VECTOR) * VECTOR
    noise = noise_samples(first=first * whole, count=count * whole, device=device)
    return noise.unflatten(0, (count, whole))[:, :width]


def _unit(width: int, *, dilation: int, causal: bool) -> Residual:
    branch = [
        Activation(),
        Conv(width, width, kernel=3, dilation=dilation, causal=causal),
        Activation(),
        Conv(width, width, kernel=1, causal=causal),
    ]
    return Residual(Chain(branch))


def _amplitude(x: Tensor) -> Tensor:
    """Predictions to amplitudes from 0 to 2, as in DDSP; small at the start of training."""
    return 2 * torch.sigmoid(x - 5) ** math.log(10) + 1e-7
