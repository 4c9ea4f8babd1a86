"""A U-Net over waveforms, as in Dance Diffusion.

Each level halves the time with a fixed cubic kernel and has residual convolutions, in the deeper
levels with self-attention after each. The time enters as Fourier features beside the waveform.
Models of a cascade can stack another signal on the waveform, with a number for it such as its noise
level, and attend to a text. Parameters are named as in diffusers' UNet1DModel.

Shapes: B batch, C channels, D width of the waveform, T time steps, L condition length.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lm_audio.networks.condition import Fused
from lm_audio.networks.winograd import Conv5

LEVEL = "level"
"""The name of a condition: a number [B, 1, 1] for the stacked signal."""

_CUBIC = (-3, -9, 29, 111, 111, 29, -9, -3)  # of 256
_HEAD_WIDTH = 32
_LEAST = 3  # time steps of the coarsest level that its reflected padding needs


@dataclass(frozen=True, kw_only=True)
class UNet1dConfig:
    """The shape of a U-Net.

    Args:
        in_channels, out_channels: D, of the waveform.
        widths: channels of each level, the finest first. After the last is a middle part with half
            of its time steps.
        num_attending: the number of deepest levels with self-attention; the middle part has it.
        time_width: Fourier features of the time.
        cosine_first: the order of these.
        stacked_channels: of a signal that is stacked on the waveform; 0 for none.
        has_level: whether the network is given a number for that signal.
        context_width: of a condition to attend to after each self-attention; 0 for none.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    num_attending: int
    time_width: int = 16
    cosine_first: bool = True
    stacked_channels: int = 0
    has_level: bool = False
    context_width: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # a list in config.json
        if not 0 <= self.num_attending < len(self.widths):
            raise ValueError(
                f"num_attending must be from 0 to {len(self.widths) - 1}, since the finest level "
                f"has no attention, got {self.num_attending}."
            )
        if self.time_width < 2 or self.time_width % 2:
            raise ValueError(f"time_width must be even and at least 2, got {self.time_width}.")
        attending = self.widths[len(self.widths) - 1 - self.num_attending :]  # of the way up, too
        if wrong := [width for width in attending if width % _HEAD_WIDTH]:
            raise ValueError(
                f"Levels with attention need multiples of {_HEAD_WIDTH} as widths, got {wrong[0]}."
            )

    @property
    def multiple(self) -> int:
        """Lengths must be multiples of this number of time steps."""
        return int(2 ** len(self.widths))

    @property
    def min_length(self) -> int:
        return _LEAST * self.multiple


class UNet1d(nn.Module):
    """Maps noisy waveforms, the time of their noise level and conditions to an output."""

    def __init__(self, config: UNet1dConfig) -> None:
        super().__init__()
        self.config = config
        widths, num_levels = config.widths, len(config.widths)
        features = config.time_width * (2 if config.has_level else 1)
        self.time_proj = Fourier(config.time_width, cosine_first=config.cosine_first)
        if config.has_level:
            self.level_proj = Fourier(config.time_width, cosine_first=config.cosine_first)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        width = config.in_channels + config.stacked_channels + features
        for level, next_width in enumerate(widths):
            self.down_blocks.append(
                Blocks(
                    (width, next_width, next_width),
                    attends=level >= num_levels - config.num_attending,
                    context_width=config.context_width,
                    down=level > 0,
                )
            )
            width = next_width
        self.mid_block = Blocks(
            (width, width, width), attends=True, context_width=config.context_width, down=True,
            up=True, num_blocks=6,
        )  # fmt: skip
        for level in reversed(range(num_levels)):
            next_width = widths[level - 1] if level else config.out_channels
            attends = level >= num_levels - config.num_attending
            self.up_blocks.append(
                Blocks(
                    (2 * widths[level], next_width if attends else widths[level], next_width),
                    attends=attends,
                    context_width=config.context_width,
                    up=level > 0,
                    is_last=level == 0,
                )
            )
        self.recomputes = False  # activation checkpointing in training
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(0.5)

    def forward(self, x: Tensor, times: Tensor, fused: Fused) -> Tensor:
        """The output [B, D, T] for noisy waveforms x [B, D, T] at times [B]."""
        self._check(x)
        context = self._context(fused)
        h = self._inputs(x, times, fused).to(self.mid_block.dtype)
        skipped = []
        for block in self.down_blocks:
            h = self._applied(block, h, context)
            skipped.append(h)
        h = self._applied(self.mid_block, h, context)
        for block in self.up_blocks:
            h = self._applied(block, torch.cat([h, skipped.pop()], dim=1), context)
        return h

    def _check(self, x: Tensor) -> None:
        length, config = x.shape[2], self.config
        if length % config.multiple or length < config.min_length:
            raise ValueError(
                f"Expected a multiple of {config.multiple} time steps, at least "
                f"{config.min_length}, got {length}."
            )

    def _inputs(self, x: Tensor, times: Tensor, fused: Fused) -> Tensor:
        """The waveform, what is stacked on it and the features of time and level: [B, C, T]."""
        config, named, T = self.config, fused.named, x.shape[2]
        if (fused.stacked is not None) != (config.stacked_channels > 0):
            raise ValueError("A stacked signal and a network for it require each other.")
        if (LEVEL in named) != config.has_level:
            raise ValueError("A level and a network for it require each other.")
        parts = [x]
        if fused.stacked is not None:
            stacked = fused.stacked.transpose(1, 2)  # [B, C, T]
            parts.append(F.pad(stacked, (0, T - stacked.shape[2])).to(x))
        parts.append(self.time_proj(times)[..., None].expand(-1, -1, T).to(x))
        if LEVEL in named:
            levels = named[LEVEL].embeddings[:, 0, 0]
            parts.append(self.level_proj(levels)[..., None].expand(-1, -1, T).to(x))
        return torch.cat(parts, dim=1)

    def _context(self, fused: Fused) -> tuple[Tensor, Tensor] | None:
        if (fused.cross is not None) != (self.config.context_width > 0):
            raise ValueError("Cross-attention and a condition for it require each other.")
        if fused.cross is None:
            return None
        return fused.cross.embeddings.to(self.mid_block.dtype), fused.cross.mask

    def _applied(
        self, block: nn.Module, h: Tensor, context: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        if self.recomputes and torch.is_grad_enabled():
            made: Tensor = checkpoint(block, h, context, use_reentrant=False)
            return made
        return block(h, context)


class Fourier(nn.Module):
    """Cosines and sines of a number times fixed random frequencies."""

    weight: Tensor

    def __init__(self, width: int, *, cosine_first: bool) -> None:
        super().__init__()
        self.cosine_first = cosine_first
        self.register_buffer("weight", torch.randn(width // 2))

    def forward(self, x: Tensor) -> Tensor:
        """Maps numbers [B] to features [B, C]."""
        angles = x.float()[:, None] * self.weight.float() * (2 * math.pi)
        parts = (angles.cos(), angles.sin())
        return torch.cat(parts if self.cosine_first else parts[::-1], dim=1)


class Blocks(nn.Module):
    """Residual blocks of one level, each with its attention, and changes of resolution.

    Args:
        widths: channels of the input, between the blocks and of the output.
        context_width: of a condition to attend to, too; 0 for none.
        is_last: the output is a waveform, without normalisation.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        *,
        attends: bool,
        context_width: int,
        down: bool = False,
        up: bool = False,
        is_last: bool = False,
        num_blocks: int = 3,
    ) -> None:
        super().__init__()
        width, inner, out_width = widths
        outs = [inner] * (num_blocks - 1) + [out_width]
        ins = [width, *outs[:-1]]
        self.down = Halve() if down else None
        self.resnets = nn.ModuleList(
            ResidualBlock(a, inner, b, is_last=is_last and i == num_blocks - 1)
            for i, (a, b) in enumerate(zip(ins, outs, strict=True))
        )
        self.attentions = nn.ModuleList(Attention1d(out) for out in outs if attends)
        self.contexts = nn.ModuleList(
            Attention1d(out, context_width=context_width)
            for out in outs
            if attends and context_width
        )
        self.up = Double() if up else None

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor] | None) -> Tensor:
        """Maps x [B, C, T] to [B, C, T] with T halved or doubled.

        Args:
            context: [B, L, D], and its mask [B, L].
        """
        if self.down is not None:
            x = self.down(x)
        for i, resnet in enumerate(self.resnets):
            x = resnet(x)
            if self.attentions:
                x = self.attentions[i](x)
            if self.contexts:
                x = self.contexts[i](x, context)
        return x if self.up is None else self.up(x)


class ResidualBlock(nn.Module):
    """Two convolutions, each with a norm over all channels and time steps, and a shortcut."""

    def __init__(self, width: int, inner: int, out_width: int, *, is_last: bool) -> None:
        super().__init__()
        self.conv_skip = None if width == out_width else nn.Conv1d(width, out_width, 1, bias=False)
        self.conv_1 = Conv5(width, inner)
        self.group_norm_1 = nn.GroupNorm(1, inner)
        self.conv_2 = Conv5(inner, out_width)
        self.group_norm_2 = None if is_last else nn.GroupNorm(1, out_width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_2(F.gelu(self.group_norm_1(self.conv_1(x))))
        if self.group_norm_2 is not None:
            h = F.gelu(self.group_norm_2(h))
        return h + (x if self.conv_skip is None else self.conv_skip(x))


class Attention1d(nn.Module):
    """Attention of time steps to each other or to a condition, normalised, with a shortcut."""

    def __init__(self, width: int, *, context_width: int = 0) -> None:
        super().__init__()
        source = context_width or width
        self.num_heads = width // _HEAD_WIDTH
        self.group_norm = nn.GroupNorm(1, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source, width)
        self.value = nn.Linear(source, width)
        self.proj_attn = nn.Linear(width, width)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Maps x [B, C, T] to the same shape; the context is [B, L, D] with a mask [B, L]."""
        h = self.group_norm(x).transpose(1, 2)  # [B, T, C]
        source, mask = (h, None) if context is None else context
        projected = (self.query(h), self.key(source), self.value(source))
        q, k, v = (y.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for y in projected)
        mask = None if mask is None or bool(mask.all()) else mask[:, None, None]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, heads, T, C / heads]
        return x + self.proj_attn(h.transpose(1, 2).flatten(2)).transpose(1, 2)


class Halve(nn.Module):
    """Halves the time steps with a fixed kernel; the ends are reflected."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(_CUBIC) / 256)

    def forward(self, x: Tensor) -> Tensor:
        C, size = x.shape[1], len(self.kernel)
        padded = F.pad(x, (size // 2 - 1, size // 2 - 1), "reflect")
        return F.conv1d(padded, self.kernel.to(x).expand(C, 1, -1), stride=2, groups=C)


class Double(nn.Module):
    """Doubles the time steps with a fixed kernel; the ends are reflected."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor(_CUBIC) / 128)

    def forward(self, x: Tensor) -> Tensor:
        B, C, _ = x.shape
        size = len(self.kernel)
        rows = F.pad(x, (size // 4, size // 4), "reflect").flatten(0, 1)[:, None]  # [B * C, 1, T]
        kernel = self.kernel.to(x)[None, None]
        return F.conv_transpose1d(rows, kernel, stride=2, padding=size - 1).view(B, C, -1)
