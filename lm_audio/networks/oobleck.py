"""Oobleck: an autoencoder of waveforms from Stable Audio (arXiv 2402.04825).

Strided convolutions with residual blocks and periodic activations; several channels of sound share
their latents. Parameters are named as in diffusers' AutoencoderOobleck, with weight normalisation
joined. The streams give the result of a single call in pieces, in constant memory.

Shapes: B batch, D latent width, T latent frames, C channels, N samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from audio_tokenizers.acoustic.stream_layers import (
    ChainStream,
    ConvStream,
    PointwiseStream,
    StreamLayer,
    SumStream,
    TransposedConvStream,
)

_DILATIONS = (1, 3, 9)


@dataclass(frozen=True, kw_only=True)
class OobleckConfig:
    """The shape of an autoencoder.

    Args:
        encoder_width, decoder_width: channels beside the samples.
        multiples: channels after each step of the encoder, as multiples of its width; those of the
            decoder mirror them.
        rates: strides of the encoder; their product is the hop length.
        latent_width: D.
        code_width: the encoder's output: means, and deviations if the latents are random.
        bounded: the decoder ends with a tanh.
    """

    num_channels: int
    sample_rate: int
    encoder_width: int
    decoder_width: int
    multiples: tuple[int, ...]
    rates: tuple[int, ...]
    latent_width: int
    code_width: int
    bounded: bool = False

    def __post_init__(self) -> None:
        if len(self.multiples) != len(self.rates) or not self.rates:
            raise ValueError(
                f"Expected a multiple of the width for each rate, got {self.multiples} for "
                f"{self.rates}."
            )
        for name, values in vars(self).items():
            for value in values if isinstance(values, tuple) else (values,):
                if value < 1 and name != "bounded":
                    raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.code_width not in (self.latent_width, 2 * self.latent_width):
            raise ValueError(
                f"The encoder's output must have the latents' width of {self.latent_width} or "
                f"twice that, got {self.code_width}."
            )

    @property
    def hop_length(self) -> int:
        return prod(self.rates)


class Oobleck(nn.Module):
    """Sound to latents and back."""

    block_seconds = 0.25
    """Of a stream."""

    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = OobleckEncoder(config)
        self.decoder = OobleckDecoder(config)

    def encode(self, samples: Tensor) -> Tensor:
        """The means of the latents [B, D, T] of samples [B, C, N], N a multiple of the hop."""
        return self.encoder(samples)[:, : self.config.latent_width]

    def decode(self, latents: Tensor) -> Tensor:
        """Samples [B, C, N] of latents [B, D, T]; T hops, or a few less with odd rates."""
        return self.decoder(latents)

    def encoder_stream(self) -> StreamLayer:
        """Steps take samples, and give means and deviations."""
        return ChainStream(_streamed(self.encoder.layers))

    def decoder_stream(self) -> StreamLayer:
        """Steps take latents, and give samples."""
        return ChainStream(_streamed(self.decoder.layers))


class OobleckEncoder(nn.Module):
    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        widths = [config.encoder_width * m for m in (1, *config.multiples)]
        self.conv1 = _conv(config.num_channels, widths[0], 7)
        self.block = nn.ModuleList(
            OobleckDown(width, after, rate)
            for width, after, rate in zip(widths, widths[1:], config.rates, strict=False)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = _conv(widths[-1], config.code_width, 3)

    @property
    def layers(self) -> list[nn.Module]:
        inner = [layer for block in self.block for layer in block.layers]  # type: ignore[union-attr]
        return [self.conv1, *inner, self.snake1, self.conv2]

    def forward(self, x: Tensor) -> Tensor:
        return nn.Sequential(*self.layers)(x)


class OobleckDecoder(nn.Module):
    def __init__(self, config: OobleckConfig) -> None:
        super().__init__()
        widths = [config.decoder_width * m for m in (1, *config.multiples)][::-1]
        self.conv1 = _conv(config.latent_width, widths[0], 7)
        self.block = nn.ModuleList(
            OobleckUp(width, after, rate)
            for width, after, rate in zip(widths, widths[1:], config.rates[::-1], strict=False)
        )
        self.snake1 = Snake(widths[-1])
        self.conv2 = _conv(widths[-1], config.num_channels, 7, bias=False)
        self.end = nn.Tanh() if config.bounded else nn.Identity()

    @property
    def layers(self) -> list[nn.Module]:
        inner = [layer for block in self.block for layer in block.layers]  # type: ignore[union-attr]
        return [self.conv1, *inner, self.snake1, self.conv2, self.end]

    def forward(self, x: Tensor) -> Tensor:
        return nn.Sequential(*self.layers)(x)


class OobleckDown(nn.Module):
    """Residual blocks, and a strided convolution."""

    def __init__(self, width: int, out_width: int, rate: int) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (Residual(width, d) for d in _DILATIONS)
        self.snake1 = Snake(width)
        self.conv1 = nn.Conv1d(width, out_width, 2 * rate, stride=rate, padding=-(-rate // 2))

    @property
    def layers(self) -> list[nn.Module]:
        return [self.res_unit1, self.res_unit2, self.res_unit3, self.snake1, self.conv1]


class OobleckUp(nn.Module):
    """A transposed convolution, and residual blocks."""

    def __init__(self, width: int, out_width: int, rate: int) -> None:
        super().__init__()
        self.snake1 = Snake(width)
        self.conv_t1 = nn.ConvTranspose1d(
            width, out_width, 2 * rate, stride=rate, padding=-(-rate // 2)
        )
        self.res_unit1, self.res_unit2, self.res_unit3 = (
            Residual(out_width, d) for d in _DILATIONS
        )

    @property
    def layers(self) -> list[nn.Module]:
        return [self.snake1, self.conv_t1, self.res_unit1, self.res_unit2, self.res_unit3]


class Residual(nn.Module):
    """A dilated convolution and one of a single step, with a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = Snake(width)
        self.conv1 = _conv(width, width, 7, dilation=dilation)
        self.snake2 = Snake(width)
        self.conv2 = _conv(width, width, 1)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.snake1, self.conv1, self.snake2, self.conv2]

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.Sequential(*self.layers)(x)


class Snake(nn.Module):
    """x + sin(a x) ** 2 / b, with learned log a and log b per channel (arXiv 2006.08195)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, width, 1))
        self.beta = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.sin(self.alpha.exp() * x).square_()
        return torch.addcmul(x, waves, (self.beta.exp() + 1e-9).reciprocal())


def _conv(
    width: int, out_width: int, kernel: int, *, dilation: int = 1, bias: bool = True
) -> nn.Conv1d:
    padding = (kernel - 1) * dilation // 2
    return nn.Conv1d(width, out_width, kernel, dilation=dilation, padding=padding, bias=bias)


def _streamed(layers: Sequence[nn.Module]) -> list[StreamLayer]:
    return [_stream(layer) for layer in layers]


def _stream(layer: nn.Module) -> StreamLayer:
    if isinstance(layer, Residual):
        branch = ChainStream(_streamed(layer.layers))
        return SumStream([PointwiseStream(nn.Identity()), branch])
    if isinstance(layer, nn.Conv1d):
        margin = int(layer.padding[0])
        return ConvStream(layer, padding=(margin, margin), mode="constant", whole_strides=False)
    if isinstance(layer, nn.ConvTranspose1d):
        margin = int(layer.padding[0])
        return TransposedConvStream(layer, trim=(margin, margin))
    return PointwiseStream(layer)
