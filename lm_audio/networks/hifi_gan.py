"""HiFi-GAN: a vocoder of transposed convolutions, each with residual blocks (arXiv 2010.05646).

Parameters are named as in transformers' SpeechT5HifiGan. `HifiGanStream` gives the result of a
single call in pieces, in constant memory.

Shapes: B batch, M mel bands, T mel frames, C channels, N samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

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

_LAST_SLOPE = 0.01


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """The shape of a vocoder of transposed convolutions.

    Args:
        width: channels before the first step, halved by each.
        rates, kernels: of the transposed convolutions; the product of the rates is the hop length.
        block_kernels, block_dilations: of the residual blocks after each of them.
    """

    num_mels: int
    sample_rate: int
    width: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    block_dilations: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.kernels):
            raise ValueError(f"Expected one kernel per rate, got {self.kernels} and {self.rates}.")
        if len(self.block_kernels) != len(self.block_dilations):
            raise ValueError("Expected the dilations of each kernel of the residual blocks.")
        if any(kernel < rate for kernel, rate in zip(self.kernels, self.rates, strict=True)):
            raise ValueError(f"Kernels {self.kernels} must be at least their rates {self.rates}.")
        if self.width % 2 ** len(self.rates):
            raise ValueError(f"A width of {self.width} cannot be halved {len(self.rates)} times.")

    @property
    def hop_length(self) -> int:
        return prod(self.rates)


@dataclass(frozen=True, kw_only=True)
class HifiGanConfig(VocoderConfig):
    """The shape of a HiFi-GAN.

    Args:
        normalize: subtract `mean` from the mel bands and divide them by `scale`.
    """

    slope: float = 0.1
    normalize: bool = True


class HifiGanBlock(nn.Module):
    """Pairs of convolutions, the first of each dilated, each pair with a shortcut."""

    def __init__(self, width: int, kernel: int, dilations: tuple[int, ...], slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.convs1 = nn.ModuleList(same_conv(width, width, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(same_conv(width, width, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            h = first(F.leaky_relu(x, self.slope))
            x = x + second(F.leaky_relu_(h, self.slope))
        return x


class HifiGan(nn.Module):
    """Log-mel spectrograms to sound."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: HifiGanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_pre = same_conv(config.num_mels, width, 7)
        self.upsampler, self.resblocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.rates, config.kernels, strict=True):
            padding = (kernel - rate) // 2
            self.upsampler.append(
                nn.ConvTranspose1d(width, width // 2, kernel, stride=rate, padding=padding)
            )
            width //= 2
            for size, dilations in zip(config.block_kernels, config.block_dilations, strict=True):
                self.resblocks.append(HifiGanBlock(width, size, dilations, config.slope))
        self.conv_post = same_conv(width, 1, 7)
        self.register_buffer("mean", torch.zeros(config.num_mels))
        self.register_buffer("scale", torch.ones(config.num_mels))

    def forward(self, mel: Tensor) -> Tensor:
        """Sound [B, N] from log-mel spectrograms [B, M, T]; a few samples more than T hops."""
        x = self.conv_pre(self.normalized(mel))
        per_step = len(self.config.block_kernels)
        for i, upsample in enumerate(self.upsampler):
            x = upsample(F.leaky_relu(x, self.config.slope))
            blocks = self.resblocks[i * per_step : (i + 1) * per_step]
            x = torch.stack([block(x) for block in blocks]).mean(dim=0)
        return self.conv_post(F.leaky_relu(x, _LAST_SLOPE)).tanh()[:, 0]

    def normalized(self, mel: Tensor) -> Tensor:
        if not self.config.normalize:
            return mel
        return (mel - self.mean[:, None]) / self.scale[:, None]

    def stream(self) -> "HifiGanStream":
        return HifiGanStream(self)


class HifiGanStream:
    """A vocoder in pieces; each layer keeps only the input that it still needs."""

    def __init__(self, model: HifiGan) -> None:
        self._model = model
        config = model.config
        per_step = len(config.block_kernels)
        layers: list[StreamLayer] = [streamed_conv(model.conv_pre)]
        for i, upsample in enumerate(model.upsampler):
            assert isinstance(upsample, nn.ConvTranspose1d)
            trim = int(upsample.padding[0])
            layers.append(_slope(config.slope))
            layers.append(TransposedConvStream(upsample, trim=(trim, trim)))
            blocks = model.resblocks[i * per_step : (i + 1) * per_step]
            layers.append(SumStream([_streamed_block(block) for block in blocks]))  # type: ignore[arg-type]
            layers.append(PointwiseStream(partial(share, count=per_step)))
        layers += [_slope(_LAST_SLOPE), streamed_conv(model.conv_post), PointwiseStream(torch.tanh)]
        self._layers = ChainStream(layers)

    def step(self, mel: Tensor, *, last: bool) -> Tensor:
        """Takes the next frames [B, M, T >= 0], which may be the last; returns sound [B, N]."""
        return self._layers.step(self._model.normalized(mel), last=last)[:, 0]


def _streamed_block(block: HifiGanBlock) -> StreamLayer:
    slope = block.slope
    return ChainStream(
        SumStream(
            [
                ChainStream(
                    [_slope(slope), streamed_conv(first), _slope(slope), streamed_conv(second)]
                ),
                PointwiseStream(nn.Identity()),
            ]
        )
        for first, second in zip(block.convs1, block.convs2, strict=True)
    )


def streamed_conv(conv: nn.Module) -> ConvStream:
    """Streams a convolution that keeps the length."""
    assert isinstance(conv, nn.Conv1d)
    padding = int(conv.padding[0])
    return ConvStream(conv, padding=(padding, padding), mode="constant", whole_strides=False)


def _slope(slope: float) -> PointwiseStream:
    function: Callable[[Tensor], Tensor] = partial(F.leaky_relu, negative_slope=slope)
    return PointwiseStream(function)


def share(x: Tensor, *, count: int) -> Tensor:
    """The mean, from the sum of as many."""
    return x / count


def same_conv(
    width: int, out_width: int, kernel: int, dilation: int = 1, *, bias: bool = True
) -> nn.Conv1d:
    """A convolution that keeps the length, if its kernel is odd."""
    padding = (kernel - 1) * dilation // 2
    return nn.Conv1d(width, out_width, kernel, dilation=dilation, padding=padding, bias=bias)
