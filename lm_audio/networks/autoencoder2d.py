"""A variational autoencoder over images or spectrograms, as in latent diffusion.

The same shape as diffusers' AutoencoderKL, whose parameter names it keeps. Training is not here.

Shapes: B batch, C channels, H height, W width, D latent channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.blocks2d import (
    Downsample,
    PixelAttention,
    ResBlock,
    Upsample,
    channels_last,
)
from lm_audio.networks.winograd import Conv3x3

_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Autoencoder2dConfig:
    """The shape of an autoencoder.

    Args:
        channels: of the images.
        latent_channels: D.
        widths: channels of each level, the finest first; each further level halves the size.
        num_blocks: residual blocks of each level of the encoder; one more in the decoder.
        attends: whether the blocks of each level are followed by attention.
        head_width: of the attention; None for a single head.
        middle_attention: whether the coarsest part has attention.
        quant_conv, post_quant_conv: whether 1x1 convolutions follow the encoder and precede the
            decoder.
    """

    channels: int
    latent_channels: int
    widths: tuple[int, ...]
    num_blocks: int
    attends: tuple[bool, ...]
    num_groups: int = 32
    head_width: int | None = None
    middle_attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True

    def __post_init__(self) -> None:
        if wrong := [width for width in self.widths if width % self.num_groups]:
            raise ValueError(
                f"Widths must be multiples of the {self.num_groups} groups of their normalisation, "
                f"got {wrong[0]}."
            )

    @property
    def factor(self) -> int:
        """Pixels per latent along each axis."""
        return 2 ** (len(self.widths) - 1)


class Autoencoder2d(nn.Module):
    def __init__(self, config: Autoencoder2dConfig) -> None:
        super().__init__()
        self.config = config
        D = config.latent_channels
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant_conv = nn.Conv2d(2 * D, 2 * D, 1) if config.quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(D, D, 1) if config.post_quant_conv else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, [B, D, H / factor, W / factor], for x [B, C, H, W]."""
        mean, log_variance = self.quant_conv(self.encoder(channels_last(x))).chunk(2, dim=1)
        return mean, (0.5 * log_variance.clamp(-30, 20)).exp()

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, C, H * factor, W * factor] from latents [B, D, H, W]."""
        return self.decoder(self.post_quant_conv(channels_last(latents)))


class _Level(nn.Module):
    """Residual blocks, each perhaps with attention, and a change of resolution."""

    def __init__(
        self,
        config: Autoencoder2dConfig,
        inputs: Sequence[int],
        width: int,
        *,
        attends: bool,
        sampler: tuple[str, nn.Module] | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_block(config, before, width) for before in inputs)
        self.attends = attends
        if attends:
            self.attentions = nn.ModuleList(_attention(config, width) for _ in inputs)
        self.sampler = None if sampler is None else sampler[0]
        if sampler is not None:
            self.add_module(sampler[0], nn.ModuleList([sampler[1]]))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.resnets):
            x = block(x)
            if self.attends:
                x = self.attentions[i](x)
        return x if self.sampler is None else getattr(self, self.sampler)[0](x)


class _Middle(nn.Module):
    def __init__(self, config: Autoencoder2dConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.resnets = nn.ModuleList(_block(config, width, width) for _ in range(2))
        if config.middle_attention:
            self.attentions = nn.ModuleList([_attention(config, width)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        if hasattr(self, "attentions"):
            x = self.attentions[0](x)
        return self.resnets[1](x)


class _Encoder(nn.Module):
    def __init__(self, config: Autoencoder2dConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = Conv3x3(config.channels, widths[0])
        self.down_blocks = nn.ModuleList()
        before = widths[0]
        for i, width in enumerate(widths):
            inputs = [before, *[width] * (config.num_blocks - 1)]
            down = Downsample(width, pad_end_only=True)
            sampler = None if i == last else ("downsamplers", down)
            attends = config.attends[i]
            self.down_blocks.append(_Level(config, inputs, width, attends=attends, sampler=sampler))
            before = width
        self.mid_block = _Middle(config)
        self.conv_norm_out = nn.GroupNorm(config.num_groups, before, eps=_EPS)
        self.conv_out = Conv3x3(before, 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x)), inplace=True))


class _Decoder(nn.Module):
    def __init__(self, config: Autoencoder2dConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        before = widths[-1]
        self.conv_in = Conv3x3(config.latent_channels, before)
        self.mid_block = _Middle(config)
        self.up_blocks = nn.ModuleList()
        for i in range(last, -1, -1):
            width = widths[i]
            sampler = None if i == 0 else ("upsamplers", Upsample(width))
            inputs = [before, *[width] * config.num_blocks]
            attends = config.attends[i]
            self.up_blocks.append(_Level(config, inputs, width, attends=attends, sampler=sampler))
            before = width
        self.conv_norm_out = nn.GroupNorm(config.num_groups, before, eps=_EPS)
        self.conv_out = Conv3x3(before, config.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(x), inplace=True))


def _block(config: Autoencoder2dConfig, width: int, out_width: int) -> ResBlock:
    return ResBlock(width, out_width, time_width=None, num_groups=config.num_groups, eps=_EPS)


def _attention(config: Autoencoder2dConfig, width: int) -> PixelAttention:
    num_heads = width // (config.head_width or width)
    return PixelAttention(width, num_heads=num_heads, num_groups=config.num_groups, eps=_EPS)
