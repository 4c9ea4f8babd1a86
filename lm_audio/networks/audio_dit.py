"""The diffusion transformer of Stable Audio (arXiv 2407.14358) and Stable Audio 3.

All frames attend to each other with rotary positions on half of each head, and to a condition.
Stable Audio puts the time of the noise level and the vector of the condition in front of the
frames. Stable Audio 3 modulates the blocks by them, subtracts a second attention from each
(differential attention, arXiv 2410.05258), and has memory vectors before the frames. Known frames
can be an input of each block.

`dit.py` has our own network for training; this one keeps the arithmetic of the published weights.

Shapes: B batch, D latent width, T frames, S positions, L condition length, C its width, H heads,
E width of the transformer, V width of the vector.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.attention import merge_heads, split_heads
from lm_audio.networks.cpu.linear import Linear, product_dtype
from lm_audio.networks.positions import Waves, partly_rotated, rotation

HeadNorm = Literal["none", "layer", "rms"]
MOST_LAYERS = 1000
"""Building more could take forever."""
_HEAD_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class AudioDiTConfig:
    """The shape of a network.

    Args:
        width: D, of the latents.
        dim: E.
        num_condition_heads: heads of the keys and values of a condition; each serves several heads
            of queries.
        condition_width, condition_dim: C, before and after its projection.
        vector_width: V, of the condition that all frames share.
        num_waves: of the time.
        wave_range: the lowest and the highest frequency of the time; None: learned ones.
        head_norm: of queries and keys.
        modulated: RMS norms, modulated by time and vector; otherwise layer norms, and time and
            vector are in front of the frames.
        differential: subtract a second attention.
        num_memories: learned vectors in front of the frames.
        known_width: width of the input of known frames; 0 for none.
        patch: frames per position.
    """

    width: int
    dim: int
    num_layers: int
    num_heads: int
    num_condition_heads: int
    condition_width: int
    condition_dim: int
    vector_width: int
    hidden_dim: int
    num_waves: int = 128
    wave_range: tuple[float, float] | None = None
    head_norm: HeadNorm = "none"
    modulated: bool = False
    differential: bool = False
    num_memories: int = 0
    known_width: int = 0
    patch: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name in ("num_memories", "known_width") else 1
            if type(value) is int and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        if self.num_layers > MOST_LAYERS:
            raise ValueError(f"num_layers must be at most {MOST_LAYERS}, got {self.num_layers}.")
        if self.dim % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"The width of {self.dim} must be {self.num_heads} heads, each a multiple of 4."
            )
        if self.num_heads % self.num_condition_heads:
            raise ValueError(
                f"{self.num_heads} heads cannot share {self.num_condition_heads} heads of a "
                "condition equally."
            )
        if self.known_width and self.patch != 1:
            raise ValueError("A network that sees known frames needs a patch of 1.")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


class AudioDiT(nn.Module):
    """Maps noisy latents, the time of their noise level and conditions to an output."""

    def __init__(self, config: AudioDiTConfig) -> None:
        super().__init__()
        self.config = config
        E, size = config.dim, config.width * config.patch
        self.time_waves = Waves(config.num_waves, config.wave_range)
        self.time = _projection(2 * config.num_waves, E, bias=True)
        self.vector = _projection(config.vector_width, E)
        self.condition = _projection(config.condition_width, config.condition_dim)
        if config.modulated:
            self.modulation = _projection(E, 6 * E, bias=True, hidden=E)
        self.before = nn.Conv1d(config.width, config.width, 1, bias=False)
        self.input = Linear(size, E, bias=False)
        if config.num_memories:
            self.memories = nn.Parameter(torch.zeros(config.num_memories, E))
        self.blocks = nn.ModuleList(AudioDiTBlock(config) for _ in range(config.num_layers))
        self.output = Linear(E, size, bias=False)
        self.after = nn.Conv1d(config.width, config.width, 1, bias=False)

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        condition: Tensor,
        vector: Tensor,
        *,
        known: Tensor | None = None,
    ) -> Tensor:
        """The output [B, D, T] for noisy latents x [B, D, T] at times [B].

        Args:
            condition: [B, L, C], and vector: [B, V].
            known: [B, known_width, T], for networks that see known frames; None adds nothing.
        """
        T, patch = x.shape[2], self.config.patch
        dtype = product_dtype(self.input.weight.dtype, x.device)
        if known is not None and not self.config.known_width:
            raise ValueError("The network does not see known frames.")
        x = x.to(dtype)
        h = F.pad(_pointwise(self.before, x) + x, (0, -T % patch)).transpose(1, 2)  # [B, T, D]
        h = self.input(h.unflatten(1, (-1, patch)).flatten(2))  # [B, S, E]
        num_positions = h.shape[1]
        shared = self.time(self.time_waves(times).to(dtype)) + self.vector(vector.to(dtype))
        modulation: Tensor | None = None
        if self.config.modulated:
            modulation = self.modulation(shared)[:, None]
        else:
            h = torch.cat([shared[:, None], h], dim=1)
        if self.config.num_memories:
            h = torch.cat([self.memories.to(dtype).expand(len(h), -1, -1), h], dim=1)
        cross = self.condition(condition.to(dtype))
        positions = torch.arange(h.shape[1], device=h.device)[None]
        turn = rotation(positions, self.config.head_dim // 2)
        local = None if known is None else known.to(dtype).transpose(1, 2)
        for block in self.blocks:
            h = block(h, turn, cross, modulation=modulation, known=local)
        y = self.output(h[:, -num_positions:])
        y = y.unflatten(2, (patch, -1)).flatten(1, 2)[:, :T].transpose(1, 2)  # [B, D, T]
        return (_pointwise(self.after, y) + y).float()


class AudioDiTBlock(nn.Module):
    """Attention to all positions, attention to the condition, and a gated feed-forward part."""

    def __init__(self, config: AudioDiTConfig) -> None:
        super().__init__()
        E = config.dim
        self.attention_norm = _norm(config)
        self.attention = Attention(config, E, num_heads=config.num_heads)
        self.cross_attention_norm = _norm(config)
        self.cross_attention = Attention(
            config, config.condition_dim, num_heads=config.num_condition_heads
        )
        self.feed_forward_norm = _norm(config)
        self.expand = Linear(E, 2 * config.hidden_dim)
        self.contract = Linear(config.hidden_dim, E)
        if config.modulated:
            self.modulation = nn.Parameter(torch.zeros(6 * E))
        if config.known_width:
            self.known = _projection(config.known_width, E, bias=True)

    def forward(
        self,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        condition: Tensor,
        *,
        modulation: Tensor | None,
        known: Tensor | None,
    ) -> Tensor:
        """x: [B, S, E]; condition: [B, L, C]; modulation: [B, 1, 6 * E]; known: [B, T, ...]."""
        if modulation is None:
            x = x + self.attention(self.attention_norm(x), turn=turn)
            x = x + self.cross_attention(self.cross_attention_norm(x), condition)
            return x + self._feed_forward(self.feed_forward_norm(x))
        parts = (self.modulation.to(x.dtype) + modulation).chunk(
            6, dim=-1
        )  # scale, shift, gate, twice
        h = torch.addcmul(parts[1], self.attention_norm(x), 1 + parts[0])
        x = x + self.attention(h, turn=turn) * torch.sigmoid(1 - parts[2])
        x = x + self.cross_attention(self.cross_attention_norm(x), condition)
        if known is not None:
            added = self.known(known)
            x = x + F.pad(added, (0, 0, x.shape[1] - added.shape[1], 0))
        h = torch.addcmul(parts[4], self.feed_forward_norm(x), 1 + parts[3])
        return x + self._feed_forward(h) * torch.sigmoid(1 - parts[5])

    def _feed_forward(self, x: Tensor) -> Tensor:
        h, gate = self.expand(x).chunk(2, dim=-1)
        return self.contract(h * F.silu(gate))


class Attention(nn.Module):
    """Attention to the input itself, with rotary positions, or to a condition.

    Args:
        width: of keys and values before their projection.
        num_heads: of keys and values.
    """

    def __init__(self, config: AudioDiTConfig, width: int, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_key_heads = config.num_heads, num_heads
        self.num_maps = 2 if config.differential else 1
        size = num_heads * config.head_dim
        self.query = Linear(config.dim, config.dim * self.num_maps, bias=False)
        self.key = Linear(width, size * self.num_maps, bias=False)
        self.value = Linear(width, size, bias=False)
        self.output = Linear(config.dim, config.dim, bias=False)
        self.query_norm, self.key_norm = _head_norm(config), _head_norm(config)

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        turn: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attends from x [B, S, E] to a condition [B, L, C], or to itself."""
        seen = x if condition is None else condition
        v = self._repeated(split_heads(self.value(seen), self.num_key_heads))
        total: Tensor | None = None
        for query, key in zip(
            self.query(x).chunk(self.num_maps, dim=-1),
            self.key(seen).chunk(self.num_maps, dim=-1),
            strict=True,
        ):
            q = self.query_norm(split_heads(query, self.num_heads))
            k = self.key_norm(split_heads(key, self.num_key_heads))
            if turn is not None:
                q, k = partly_rotated(q, turn), partly_rotated(k, turn)
            found = F.scaled_dot_product_attention(q, self._repeated(k), v)
            total = found if total is None else total - found
        assert total is not None
        return self.output(merge_heads(total))

    def _repeated(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.num_heads // self.num_key_heads, dim=1)


class LayerNorm(nn.LayerNorm):
    """In the precision of its input, whatever that of its weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """In float32, whatever the precision of its input."""

    def __init__(self, dim: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


def _projection(
    width: int, out_width: int, *, bias: bool = False, hidden: int | None = None
) -> nn.Sequential:
    hidden = hidden or out_width
    return nn.Sequential(
        Linear(width, hidden, bias=bias), nn.SiLU(), Linear(hidden, out_width, bias=bias)
    )


def _norm(config: AudioDiTConfig) -> nn.Module:
    return RMSNorm(config.dim) if config.modulated else LayerNorm(config.dim)


def _head_norm(config: AudioDiTConfig) -> nn.Module:
    if config.head_norm == "layer":
        return LayerNorm(config.head_dim, eps=_HEAD_EPS)
    return RMSNorm(config.head_dim) if config.head_norm == "rms" else nn.Identity()


def _pointwise(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution of one step, in the precision of x."""
    assert isinstance(conv, nn.Conv1d)
    return F.conv1d(x, conv.weight.to(x.dtype))
