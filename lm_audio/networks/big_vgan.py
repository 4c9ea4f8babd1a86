"""BigVGAN: a HiFi-GAN with periodic, anti-aliased activations (arXiv 2206.04658).

Parameters are named as in the original and in diffusers' MMAudioVocoder. Its activations run at
twice the rate; their filters are the same in all published models and no parameters here.
`BigVganStream` gives the result of a single call in pieces, in constant memory.

Shapes: B batch, M mel bands, T mel frames, C channels, N samples or other time steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.stream_layers import (
    ChainStream,
    ConvStream,
    PointwiseStream,
    StreamLayer,
    SumStream,
    TransposedConvStream,
)
from lm_audio.networks.hifi_gan import VocoderConfig, same_conv, share, streamed_conv

TAPS = 12
"""Of the filter before and after each activation."""
_HALF_WIDTH, _CUTOFF = 0.3, 0.25  # of its transition and its pass band, at the doubled rate
_REACH = 3  # steps on each side that a filter reads
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class BigVganConfig(VocoderConfig):
    """The shape of a BigVGAN.

    Args:
        tanh: limit the sound by a tanh, as the first version does; else clip it.
        last_bias: whether the last convolution has a bias, as in the first version.
    """

    tanh: bool = True
    last_bias: bool = True


class SnakeBeta(nn.Module):
    """x + sin(a x)^2 / b with a and b by channel, stored as logarithms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B, C, N] to the same shape."""
        y, size = x * self.alpha.exp()[:, None], 1 / (self.beta.exp() + _TINY)[:, None]
        if y.requires_grad:
            return x + size * y.sin().square()
        return y.sin_().square_().mul_(size).add_(x)  # a third of the time of new tensors


class AntiAliased(nn.Module):
    """A periodic activation at twice the rate, between two low-pass filters.

    The values at even and odd places of the doubled rate stay apart: each filter is then two
    convolutions by channel at the rate of the input, without zeros and without sorting.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = SnakeBeta(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B, C, N] to the same shape."""
        up, down = self.filters()
        x = _padded(x, x[..., :1], x[..., -1:])
        even, odd = (self.act(F.conv1d(x, taps, groups=len(taps))) for taps in up)
        ends = even[..., :1], odd[..., -1:]
        phases = zip((even, odd), down, strict=True)
        first, second = (F.conv1d(_padded(y, *ends), t, groups=len(t)) for y, t in phases)
        return first + second

    def filters(self) -> tuple[list[Tensor], list[Tensor]]:
        """The weights [C, 1, 7] for even and odd places, before the activation and after it."""
        C, taps = len(self.act.alpha), low_pass().to(self.act.alpha)
        first, second = taps[::2], taps[1::2]
        up = F.pad(2 * second.flip(0), (0, 1)), F.pad(2 * first.flip(0), (1, 0))
        down = F.pad(second, (1, 0)), F.pad(first, (0, 1))
        return [x.repeat(C, 1, 1) for x in up], [x.repeat(C, 1, 1) for x in down]

    def stream(self) -> "AntiAliasedStream":
        return AntiAliasedStream(self)


class AntiAliasedStream:
    """An activation in pieces."""

    def __init__(self, layer: AntiAliased) -> None:
        up, down = layer.filters()
        self._act = layer.act
        self._up = [_filter(taps, padding=_REACH) for taps in up]
        self._down = [_filter(taps, padding=0) for taps in down]
        self._last: Tensor | None = None  # the latest value at an odd place

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        even, odd = (self._act(layer.step(x, last=last)) for layer in self._up)
        none = odd[..., :0]
        begins = even[..., :1] if self._last is None else none
        self._last = odd[..., -1:].clone() if odd.shape[2] else self._last
        ends = self._last if last and self._last is not None else none
        first, second = (
            layer.step(_padded(y, begins, ends), last=last)
            for y, layer in zip((even, odd), self._down, strict=True)
        )
        return first + second


class BigVganBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair with a shortcut."""

    def __init__(self, width: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(same_conv(width, width, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(same_conv(width, width, kernel) for _ in dilations)
        self.activations = nn.ModuleList(AntiAliased(width) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for layers in self.pairs():
            h = x
            for layer in layers:
                h = layer(h)
            x = x + h
        return x

    def pairs(self) -> list[tuple[nn.Module, ...]]:
        """The layers beside each shortcut."""
        first, second = self.activations[::2], self.activations[1::2]
        return list(zip(first, self.convs1, second, self.convs2, strict=True))


class BigVgan(nn.Module):
    """Log-mel spectrograms to sound."""

    def __init__(self, config: BigVganConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_pre = same_conv(config.num_mels, width, 7)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            padding = (kernel - rate) // 2
            up = nn.ConvTranspose1d(width, width // 2, kernel, stride=rate, padding=padding)
            self.ups.append(nn.ModuleList([up]))
            width //= 2
            for size, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(BigVganBlock(width, size, dilations))
        self.activation_post = AntiAliased(width)
        self.conv_post = same_conv(width, 1, 7, bias=config.last_bias)

    def forward(self, mel: Tensor) -> Tensor:
        """Sound [B, N] from log-mel spectrograms [B, M, T]; a few samples more than T hops."""
        x = self.conv_pre(mel)
        for i, upsample in enumerate(self.upsampling()):
            x = upsample(x)
            x = torch.stack([block(x) for block in self.blocks(i)]).mean(dim=0)
        return self.limited(self.conv_post(self.activation_post(x)))[:, 0]

    def upsampling(self) -> list[nn.ConvTranspose1d]:
        return [layers[0] for layers in self.ups]  # type: ignore[index]

    def blocks(self, step: int) -> list[BigVganBlock]:
        """The residual blocks after a step."""
        count = len(self.config.block_kernels)
        return list(self.resblocks[step * count : (step + 1) * count])  # type: ignore[arg-type]

    def limited(self, x: Tensor) -> Tensor:
        return x.tanh() if self.config.tanh else x.clamp(-1, 1)

    def stream(self) -> "BigVganStream":
        return BigVganStream(self)


class BigVganStream:
    """A vocoder in pieces; each layer keeps only the input that it still needs."""

    def __init__(self, model: BigVgan) -> None:
        count = len(model.config.block_kernels)
        layers: list[StreamLayer] = [streamed_conv(model.conv_pre)]
        for i, upsample in enumerate(model.upsampling()):
            trim = int(upsample.padding[0])
            layers.append(TransposedConvStream(upsample, trim=(trim, trim)))
            layers.append(SumStream([_streamed_block(block) for block in model.blocks(i)]))
            layers.append(PointwiseStream(partial(share, count=count)))
        layers += [model.activation_post.stream(), streamed_conv(model.conv_post)]
        self._layers = ChainStream([*layers, PointwiseStream(model.limited)])

    def step(self, mel: Tensor, *, last: bool) -> Tensor:
        """Takes the next frames [B, M, T >= 0], which may be the last; returns sound [B, N]."""
        return self._layers.step(mel, last=last)[:, 0]


def _streamed_block(block: BigVganBlock) -> StreamLayer:
    return ChainStream(
        SumStream(
            [ChainStream(_streamed(layer) for layer in layers), PointwiseStream(nn.Identity())]
        )
        for layers in block.pairs()
    )


def _streamed(layer: nn.Module) -> StreamLayer:
    return layer.stream() if isinstance(layer, AntiAliased) else streamed_conv(layer)


@cache
def low_pass() -> Tensor:
    """The filter of all activations: a sinc in a Kaiser window, whose taps add up to 1."""
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * _HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's formula above 50 dB
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta, device="cpu")
    times = torch.arange(TAPS, device="cpu") - (TAPS - 1) / 2
    taps = window * torch.sinc(2 * _CUTOFF * times)
    return taps / taps.sum()


def _padded(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """x [B, C, N] with a value [B, C, 0 or 1] repeated before it, and another after it."""
    before, after = (y.expand(-1, -1, _REACH) if y.shape[2] else y for y in (first, last))
    return torch.cat([before, x, after], dim=2)


def _filter(weight: Tensor, *, padding: int) -> ConvStream:
    C, _, size = weight.shape
    conv = nn.Conv1d(C, C, size, groups=C, bias=False, device="meta")
    conv.weight = nn.Parameter(weight, requires_grad=False)
    mode = "replicate" if padding else "constant"
    return ConvStream(conv, padding=(padding, padding), mode=mode, whole_strides=False)
