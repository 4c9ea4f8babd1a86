"""SAME: an autoencoder of waveforms from Stable Audio 3 (arXiv 2605.18613).

Samples are cut into patches. Each step of the encoder appends a learned vector to every few frames
and keeps what a transformer makes of that vector; the decoder appends several to every frame and
keeps those. Attention reaches a few frames only, so the streams need a bounded context. Parameters
are named as in diffusers' AutoencoderSAME, with weight normalisation joined.

Shapes: B batch, D latent width, T latent frames, C channels, N samples, S steps of a transformer,
H heads, E width.
"""

import math
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audio_tokenizers.acoustic.stream_layers import ChainStream, PointwiseStream, StreamLayer
from lm_audio.networks.attention import merge_heads, split_heads
from lm_audio.networks.audio_dit import MOST_LAYERS
from lm_audio.networks.positions import partly_rotated, rotation


@dataclass(frozen=True, kw_only=True)
class SameConfig:
    """The shape of an autoencoder.

    Args:
        patch: samples per patch.
        width: multiplied by `multiples`, the widths of the transformers of each step.
        rates, depths: frames joined by each step of the encoder, and its layers.
        latent_width: D.
        reach: of the attention, in frames of a step's coarser side, to each side.
        encoder_sines, decoder_sines: for each step, the last layers are gated by sines; as many as
            this less one.
    """

    num_channels: int
    sample_rate: int
    patch: int
    width: int
    multiples: tuple[int, ...]
    rates: tuple[int, ...]
    depths: tuple[int, ...]
    latent_width: int
    head_dim: int
    hidden_ratio: int
    reach: int
    differential: bool
    encoder_sines: tuple[int, ...]
    decoder_sines: tuple[int, ...]

    def __post_init__(self) -> None:
        listed = (self.multiples, self.depths, self.encoder_sines, self.decoder_sines)
        if not self.rates or any(len(values) != len(self.rates) for values in listed):
            raise ValueError(
                f"Expected a multiple, a depth and numbers of sines for each of the rates "
                f"{self.rates}."
            )
        for name, values in vars(self).items():
            if name in ("differential", "encoder_sines", "decoder_sines"):
                continue
            for value in values if isinstance(values, tuple) else (values,):
                if value < 1:
                    raise ValueError(f"{name} must be at least 1, got {value}.")
        if max(self.depths) > MOST_LAYERS:
            raise ValueError(f"depths must be at most {MOST_LAYERS}, got {self.depths}.")
        for multiple in self.multiples:
            heads = min(self.head_dim, self.width * multiple)
            if self.width * multiple % heads or heads % 4:
                raise ValueError(
                    f"A width of {self.width * multiple} cannot be split into heads of {heads}, "
                    "which must be a multiple of 4."
                )

    @property
    def hop_length(self) -> int:
        return self.patch * prod(self.rates)


class Same(nn.Module):
    """Sound to latents and back."""

    block_seconds = 6.0
    """Of a stream: each block is computed with the context around it."""

    def __init__(self, config: SameConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SameEncoder(config)
        self.bottleneck = Bottleneck(config.latent_width)
        self.decoder = SameDecoder(config)

    def encode(self, samples: Tensor) -> Tensor:
        """Latents [B, D, T] of samples [B, C, N], N a multiple of the hop."""
        return self.bottleneck.encode(self.encoder(self._patches(samples)))

    def decode(self, latents: Tensor) -> Tensor:
        """Samples [B, C, N] of latents [B, D, T]."""
        return self._samples(self.decoder(self.bottleneck.decode(latents)))

    def encoder_stream(self) -> StreamLayer:
        """Steps take whole patches of samples, and give latents."""
        encoder = self.encoder
        return ChainStream(
            [
                PointwiseStream(self._patches),
                *(_BlockStream(block) for block in encoder.steps),
                PointwiseStream(lambda x: self.bottleneck.encode(encoder.project(x))),
            ]
        )

    def decoder_stream(self) -> StreamLayer:
        """Steps take latents, and give samples."""
        decoder = self.decoder
        return ChainStream(
            [
                PointwiseStream(lambda x: decoder.project(self.bottleneck.decode(x))),
                *(_BlockStream(block) for block in decoder.steps),
                PointwiseStream(self._samples),
            ]
        )

    def _patches(self, samples: Tensor) -> Tensor:
        """[B, C, N] as [B, C * patch, N / patch]."""
        return samples.unflatten(2, (-1, self.config.patch)).transpose(2, 3).flatten(1, 2)

    def _samples(self, patches: Tensor) -> Tensor:
        return patches.unflatten(1, (-1, self.config.patch)).transpose(2, 3).flatten(2)


class SameEncoder(nn.Module):
    def __init__(self, config: SameConfig) -> None:
        super().__init__()
        widths = _widths(config)
        self.blocks = nn.ModuleList(
            Resampling(
                config, widths[i], widths[i + 1], i, sines=config.encoder_sines[i], is_encoder=True
            )
            for i in range(len(config.rates))
        )
        self.proj = nn.Linear(widths[-1], config.latent_width)

    @property
    def steps(self) -> list["Resampling"]:
        return list(self.blocks)  # type: ignore[arg-type]

    def project(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.project(x)


class SameDecoder(nn.Module):
    def __init__(self, config: SameConfig) -> None:
        super().__init__()
        widths = _widths(config)
        self.proj = nn.Linear(config.latent_width, widths[-1])
        self.blocks = nn.ModuleList(
            Resampling(
                config, widths[i + 1], widths[i], i, sines=config.decoder_sines[i], is_encoder=False
            )
            for i in reversed(range(len(config.rates)))
        )

    @property
    def steps(self) -> list["Resampling"]:
        return list(self.blocks)  # type: ignore[arg-type]

    def project(self, x: Tensor) -> Tensor:
        return self.proj(x.transpose(1, 2)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        for block in self.blocks:
            x = block(x)
        return x


class Bottleneck(nn.Module):
    """Scales latents to a deviation of about 1."""

    running_std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, width, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1))
        self.register_buffer("running_std", torch.ones(1))

    def encode(self, x: Tensor) -> Tensor:
        return (x * self.scale + self.bias) / self.running_std

    def decode(self, x: Tensor) -> Tensor:
        return x * self.running_std


class Resampling(nn.Module):
    """A step: joins `rate` frames to one, or makes `rate` frames of one.

    Args:
        i: the place of the step in the encoder.
    """

    def __init__(
        self,
        config: SameConfig,
        width: int,
        out_width: int,
        i: int,
        *,
        sines: int,
        is_encoder: bool,
    ) -> None:
        super().__init__()
        self.rate, self.is_encoder = config.rates[i], is_encoder
        self.out_width = out_width
        self.reach, depth = config.reach, config.depths[i]
        self.context = self.reach * depth
        inner = out_width if is_encoder else width
        self.mapping = nn.Conv1d(width, out_width, 1) if width != out_width else nn.Identity()
        self.transformers = nn.ModuleList(
            Layer(config, inner, by_sine=depth - j < sines) for j in range(depth)
        )
        self.new_tokens = nn.Parameter(torch.zeros(1, 1, inner))

    def forward(self, x: Tensor) -> Tensor:
        """Maps x [B, C, T * rate] to [B, C', T], or in the decoder the other way."""
        size = self.rate + 1
        if self.is_encoder:
            x = self.mapping(x)
            kept, made = self.rate, 1
        else:
            kept, made = 1, self.rate
        groups = x.transpose(1, 2).unflatten(1, (-1, kept))  # [B, T, kept, E]
        B, T = groups.shape[:2]
        new = self.new_tokens.expand(B, T, made, -1)
        h = torch.cat([groups, new], dim=2).flatten(1, 2)  # [B, S, E]
        place = torch.arange(h.shape[1], device=h.device)
        mask = (place[:, None] - place).abs() <= self.reach * size
        for layer in self.transformers:
            h = layer(h, mask)
        y = h.unflatten(1, (T, size))[:, :, -made:].flatten(1, 2).transpose(1, 2)
        return y if self.is_encoder else self.mapping(y)


class Layer(nn.Module):
    """Attention and a gated feed-forward part."""

    def __init__(self, config: SameConfig, width: int, *, by_sine: bool) -> None:
        super().__init__()
        self.norm_attn, self.norm_ff = DynamicTanh(width), DynamicTanh(width)
        self.attn = SameAttention(width, config)
        self.ff = SameFeedForward(width, width * config.hidden_ratio, by_sine=by_sine)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm_attn(x), mask)
        return x + self.ff(self.norm_ff(x))


class SameAttention(nn.Module):
    """Attention with rotary positions; a second one may be subtracted."""

    def __init__(self, width: int, config: SameConfig) -> None:
        super().__init__()
        self.head_dim = min(config.head_dim, width)
        self.num_heads = width // self.head_dim
        self.num_maps = 2 if config.differential else 1
        self.to_qkv = nn.Linear(width, width * (2 * self.num_maps + 1), bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.q_norm, self.k_norm = DynamicTanh(self.head_dim), DynamicTanh(self.head_dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: [B, S, E]; mask: [S, S], False where one does not attend to the other."""
        parts = self.to_qkv(x).chunk(2 * self.num_maps + 1, dim=-1)
        *pairs, v = (split_heads(part, self.num_heads) for part in parts)
        turn = rotation(torch.arange(x.shape[1], device=x.device)[None], self.head_dim // 2)
        found = [
            F.scaled_dot_product_attention(
                partly_rotated(self.q_norm(q), turn),
                partly_rotated(self.k_norm(k), turn),
                v,
                attn_mask=mask,
            )
            for q, k in zip(pairs[: self.num_maps], pairs[self.num_maps :], strict=True)
        ]
        total = found[0] if len(found) == 1 else found[0] - found[1]
        return self.to_out(merge_heads(total))


class SameFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, *, by_sine: bool) -> None:
        super().__init__()
        self.by_sine = by_sine
        self.proj_in = nn.Linear(width, 2 * hidden)
        self.proj_out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(h * (torch.sin(math.pi * gate) if self.by_sine else F.silu(gate)))


class DynamicTanh(nn.Module):
    """In place of a norm (arXiv 2503.10622)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.gamma = nn.Parameter(torch.ones(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.gamma, torch.tanh(self.alpha * x))


class _BlockStream:
    """Applies a step to what arrives with the context around it, and keeps the results of that.

    Positions are rotary, so a result does not depend on its place.
    """

    def __init__(self, block: Resampling) -> None:
        self._block = block
        # inputs and results per group
        self._group, self._made = (block.rate, 1) if block.is_encoder else (1, block.rate)
        self._held: Tensor | None = None  # from the context of the next result on
        self._before = 0  # groups of that context

    def step(self, x: Tensor, *, last: bool) -> Tensor:
        context = self._block.context
        held = x if self._held is None else torch.cat([self._held, x], dim=2)
        self._held = held
        groups = held.shape[2] // self._group
        ready = groups - self._before - (0 if last else context)
        if ready <= 0:
            return held.new_zeros(len(held), self._block.out_width, 0)
        first, done = self._before, self._before + ready
        y: Tensor = self._block(held[..., : groups * self._group])
        y = y[..., first * self._made : done * self._made]
        self._before = min(context, done)
        self._held = held[..., (done - self._before) * self._group :].clone()
        return y


def _widths(config: SameConfig) -> list[int]:
    patch = config.num_channels * config.patch
    return [patch, *(config.width * multiple for multiple in config.multiples)]
