"""A U-Net over image-like latents, as in Stable Diffusion, AudioLDM and AudioLDM 2.

Each residual block of a level may be followed by several transformers: over the pixels alone, or
with attention to one of the contexts. The time, and a vector for the whole item if there is one,
are added in each residual block. Parameters are named as in diffusers.

Shapes: B batch, C channels, H height, W width, D width of a vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.blocks2d import (
    Context,
    Downsample,
    PixelTransformer,
    ResBlock,
    Upsample,
    channels_last,
)
from lm_audio.networks.winograd import Conv3x3


@dataclass(frozen=True, kw_only=True)
class Attends:
    """A transformer after a residual block.

    Args:
        width: of its context's tokens; None for self-attention alone.
        context: the index of that context.
    """

    width: int | None = None
    context: int = 0


@dataclass(frozen=True, kw_only=True)
class UNet2dConfig:
    """The shape of a U-Net.

    Args:
        widths: channels of each level, the finest first.
        attends: the transformers after each residual block of a level, by level.
        middle: those between the two residual blocks of the coarsest part.
        num_blocks: residual blocks of each level on the way down; one more on the way up.
        num_layers: of each transformer, by level.
        num_heads: of each transformer, by level.
        vector_width: of a vector for the whole item; 0 for none.
        hidden_vector: project that vector by two layers instead of one.
        concatenated: put the projected vector beside the time instead of adding it.
        cosine_first: the order of the time's waves.
        shift: lowers the divisor of the time's frequencies.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    attends: tuple[tuple[Attends, ...], ...]
    middle: tuple[Attends, ...]
    num_blocks: tuple[int, ...]
    num_layers: tuple[int, ...]
    num_heads: tuple[int, ...]
    num_groups: int = 32
    eps: float = 1e-5
    linear: bool = False
    vector_width: int = 0
    hidden_vector: bool = False
    concatenated: bool = False
    cosine_first: bool = True
    shift: int = 0

    def __post_init__(self) -> None:
        sizes = {len(x) for x in (self.widths, self.attends, self.num_blocks, self.num_layers)}
        if sizes != {len(self.num_heads)}:
            raise ValueError("All settings by level need the same number of levels.")
        for level, attends in enumerate(self.attends):
            if attends and self.widths[level] % self.num_heads[level]:
                raise ValueError(
                    f"The width of level {level}, {self.widths[level]}, is not a multiple of its "
                    f"{self.num_heads[level]} heads."
                )
        if wrong := [width for width in self.widths if width % self.num_groups]:
            raise ValueError(
                f"Widths must be multiples of the {self.num_groups} groups of their normalisation, "
                f"got {wrong[0]}."
            )

    @property
    def time_width(self) -> int:
        return 4 * self.widths[0]


class Embedding(nn.Module):
    """Two linear layers, for the time or for a vector."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, out_width)
        self.linear_2 = nn.Linear(out_width, out_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Level(nn.Module):
    """Residual blocks of one level, each with its transformers, and a change of resolution."""

    def __init__(
        self,
        config: UNet2dConfig,
        index: int,
        widths: Sequence[int],
        *,
        sampler: tuple[str, nn.Module] | None,
    ) -> None:
        """`widths` are those of the blocks' inputs; `sampler` is its name and the module."""
        super().__init__()
        out = config.widths[index]
        time_width = config.time_width * (2 if config.concatenated else 1)
        self.attends = config.attends[index]
        self.resnets = nn.ModuleList(
            ResBlock(
                width, out, time_width=time_width, num_groups=config.num_groups, eps=config.eps
            )
            for width in widths
        )
        if self.attends:
            self.attentions = nn.ModuleList(
                _transformer(config, index, one) for _ in widths for one in self.attends
            )
        self.samplers = None if sampler is None else sampler[0]
        if sampler is not None:
            self.add_module(sampler[0], nn.ModuleList([sampler[1]]))

    def block(self, i: int, x: Tensor, time: Tensor, contexts: Sequence[Context]) -> Tensor:
        """Residual block i and its transformers."""
        x = self.resnets[i](x, time)
        for j, one in enumerate(self.attends):
            context = None if one.width is None else contexts[one.context]
            x = self.attentions[i * len(self.attends) + j](x, context)
        return x

    def resample(self, x: Tensor, **size: Any) -> Tensor:
        return x if self.samplers is None else getattr(self, self.samplers)[0](x, **size)


class Middle(nn.Module):
    """A residual block, transformers and another residual block."""

    def __init__(self, config: UNet2dConfig) -> None:
        super().__init__()
        width, time_width = config.widths[-1], config.time_width * (1 + config.concatenated)
        self.attends = config.middle
        self.resnets = nn.ModuleList(
            ResBlock(
                width, width, time_width=time_width, num_groups=config.num_groups, eps=config.eps
            )
            for _ in range(2)
        )
        self.attentions = nn.ModuleList(
            _transformer(config, len(config.widths) - 1, one) for one in self.attends
        )

    def forward(self, x: Tensor, time: Tensor, contexts: Sequence[Context]) -> Tensor:
        x = self.resnets[0](x, time)
        for one, attention in zip(self.attends, self.attentions, strict=True):
            x = attention(x, None if one.width is None else contexts[one.context])
        return self.resnets[1](x, time)


class UNet2d(nn.Module):
    """Predicts from noisy latents, a time, contexts and perhaps a vector."""

    def __init__(self, config: UNet2dConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        self.conv_in = Conv3x3(config.in_channels, widths[0])
        self.time_embedding = Embedding(widths[0], config.time_width)
        if config.vector_width and config.hidden_vector:
            self.class_embedding: nn.Module = Embedding(config.vector_width, config.time_width)
        elif config.vector_width:
            self.class_embedding = nn.Linear(config.vector_width, config.time_width)
        self.down_blocks = nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            inputs = [widths[max(0, i - 1)], *[width] * (config.num_blocks[i] - 1)]
            sampler = None if i == last else ("downsamplers", Downsample(width))
            self.down_blocks.append(Level(config, i, inputs, sampler=sampler))
            skips += [width] * (config.num_blocks[i] + (i < last))
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        before = widths[-1]
        for i in range(last, -1, -1):
            inputs = []
            for _ in range(config.num_blocks[i] + 1):
                inputs.append(before + skips.pop())
                before = widths[i]
            up = None if i == 0 else ("upsamplers", Upsample(before))
            self.up_blocks.append(Level(config, i, inputs, sampler=up))
        self.conv_norm_out = nn.GroupNorm(config.num_groups, widths[0], eps=config.eps)
        self.conv_out = Conv3x3(widths[0], config.out_channels)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        contexts: Sequence[Context] = (),
        *,
        vector: Tensor | None = None,
    ) -> Tensor:
        """The prediction [B, C, H, W] for latents [B, C, H, W], times [B] and vectors [B, D]."""
        embedded = F.silu(self._embed(time, vector))
        x = self.conv_in(channels_last(x))
        skips = [x]
        down: list[Level] = list(self.down_blocks)  # type: ignore[arg-type]
        up: list[Level] = list(self.up_blocks)  # type: ignore[arg-type]
        for level in down:
            for j in range(len(level.resnets)):
                x = level.block(j, x, embedded, contexts)
                skips.append(x)
            if level.samplers is not None:
                x = level.resample(x)
                skips.append(x)
        x = self.mid_block(x, embedded, contexts)
        for level in up:
            for j in range(len(level.resnets)):
                x = level.block(j, torch.cat([x, skips.pop()], dim=1), embedded, contexts)
            if level.samplers is not None:
                x = level.resample(x, size=tuple(skips[-1].shape[2:]))
        return self.conv_out(F.silu(self.conv_norm_out(x), inplace=True))

    def _embed(self, time: Tensor, vector: Tensor | None) -> Tensor:
        """The time and the vector, before the activation: [B, D]."""
        config = self.config
        dtype = self.conv_in.weight.dtype
        x: Tensor = self.time_embedding(waves(time, config).to(dtype))
        if not config.vector_width:
            return x
        assert vector is not None
        also: Tensor = self.class_embedding(vector.to(dtype))
        return torch.cat([x, also], dim=-1) if config.concatenated else x + also


def waves(time: Tensor, config: UNet2dConfig) -> Tensor:
    """Sines and cosines of times [B]: [B, D]."""
    half = config.widths[0] // 2
    places = torch.arange(half, device=time.device, dtype=torch.float32)
    rates = torch.exp(-math.log(10_000) * places / (half - config.shift))
    angles = time.float()[:, None] * rates
    parts = [angles.sin(), angles.cos()]
    return torch.cat(parts[::-1] if config.cosine_first else parts, dim=-1)


def _transformer(config: UNet2dConfig, level: int, attends: Attends) -> PixelTransformer:
    return PixelTransformer(
        config.widths[level],
        num_heads=config.num_heads[level],
        context_width=attends.width,
        num_layers=config.num_layers[level],
        num_groups=config.num_groups,
        linear=config.linear,
    )
