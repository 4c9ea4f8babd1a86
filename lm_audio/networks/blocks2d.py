"""Blocks of image-like networks: residual convolutions, resampling and transformers over pixels.

Parameters are named as in diffusers, so that its weights load without renaming. On a CPU the
tensors are channels-last in memory: a pixel's channels are then a row of a matrix product.

Shapes: B batch, C channels, H height, W width, L condition length, D width of a token.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.cpu.attention import attention
from lm_audio.networks.winograd import Conv3x3


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the pixels attend to: tokens [B, L, D] and, if some are padding, the mask [B, L]."""

    tokens: Tensor
    mask: Tensor | None = None


class ResBlock(nn.Module):
    """Two normalised convolutions and a shortcut; the time, if any, is added in between."""

    def __init__(
        self, width: int, out_width: int, *, time_width: int | None, num_groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_groups, width, eps=eps)
        self.conv1 = Conv3x3(width, out_width)
        self.time_emb_proj = None if time_width is None else nn.Linear(time_width, out_width)
        self.norm2 = nn.GroupNorm(num_groups, out_width, eps=eps)
        self.conv2 = Conv3x3(out_width, out_width)
        self.conv_shortcut = None if width == out_width else nn.Conv2d(width, out_width, 1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """Maps x [B, C, H, W] and the activated time [B, D] to [B, C, H, W]."""
        h = self.conv1(F.silu(self.norm1(x), inplace=True))
        if self.time_emb_proj is not None:
            h = h + self.time_emb_proj(time)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h), inplace=True))
        if self.conv_shortcut is not None:
            x = to_pixels(_project(self.conv_shortcut, to_tokens(x)), like=x)
        return h + x


class Downsample(nn.Module):
    """Halves height and width, rounded up; or rounded down, with padding at the end alone."""

    def __init__(self, width: int, *, pad_end_only: bool = False) -> None:
        super().__init__()
        self.pad_end_only = pad_end_only
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=0 if pad_end_only else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.pad_end_only else x)


class Upsample(nn.Module):
    """Repeats pixels up to a size, doubled by default, and smooths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = Conv3x3(width, width)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return self.conv(F.interpolate(x, size or (2 * x.shape[2], 2 * x.shape[3])))


class Attention(nn.Module):
    """Attention of tokens to themselves or to a context."""

    def __init__(
        self, width: int, *, num_heads: int, context_width: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        source = context_width or width
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(source, width, bias=bias)
        self.to_v = nn.Linear(source, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Attends from x [B, L, D] to x or to the context."""
        source = x if context is None else context.tokens
        projected = (self.to_q(x), self.to_k(source), self.to_v(source))
        q, k, v = (y.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for y in projected)
        mask = None if context is None or context.mask is None else context.mask[:, None, None]
        y = attention(q, k, v, mask)  # [B, heads, L, D / heads]
        return self.to_out[0](y.transpose(1, 2).flatten(2))


class PixelAttention(Attention):
    """Self-attention of all pixels, normalised, with a shortcut; as in autoencoders."""

    def __init__(self, width: int, *, num_heads: int, num_groups: int, eps: float) -> None:
        super().__init__(width, num_heads=num_heads, bias=True)
        self.group_norm = nn.GroupNorm(num_groups, width, eps=eps)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Maps x [B, C, H, W] to the same shape."""
        return x + to_pixels(super().forward(to_tokens(self.group_norm(x)), context), like=x)


class GatedLinear(nn.Module):
    """A linear layer times the GELU of another one."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # Index 1 is the place of a dropout layer in the published weights.
        self.net = nn.ModuleList(
            [GatedLinear(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)]
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer(x)
        return x


class TransformerBlock(nn.Module):
    """Self-attention, attention to a context or again to itself, and a gated layer."""

    def __init__(self, width: int, *, num_heads: int, context_width: int | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, num_heads=num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = Attention(width, num_heads=num_heads, context_width=context_width)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class PixelTransformer(nn.Module):
    """Transformer blocks over the pixels of an image, with a shortcut around them.

    Args:
        context_width: of the tokens to attend to; None for self-attention alone.
        linear: project by linear layers instead of 1x1 convolutions; only the stored shape differs.
    """

    def __init__(
        self,
        width: int,
        *,
        num_heads: int,
        context_width: int | None,
        num_layers: int,
        num_groups: int,
        linear: bool,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, num_heads=num_heads, context_width=context_width)
            for _ in range(num_layers)
        )
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Context | None) -> Tensor:
        """Maps x [B, C, H, W] to the same shape."""
        h = _project(self.proj_in, to_tokens(self.norm(x)))
        for block in self.transformer_blocks:
            h = block(h, context)
        return x + to_pixels(_project(self.proj_out, h), like=x)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C]; no copy if x is channels-last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def to_pixels(x: Tensor, *, like: Tensor) -> Tensor:
    """[B, H * W, C] -> [B, C, H, W], channels-last."""
    return x.unflatten(1, tuple(like.shape[2:])).permute(0, 3, 1, 2)


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a linear layer, or a 1x1 convolution as one, to [B, L, D]."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return F.linear(x, layer.weight.flatten(1), layer.bias)


def channels_last(x: Tensor) -> Tensor:
    """The same tensor [B, C, H, W] in the memory layout that is fastest on its device."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
