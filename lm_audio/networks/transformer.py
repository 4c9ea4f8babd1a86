"""A pre-norm transformer: causal, windowed or two-sided, with or without cross-attention.

It runs over whole sequences, for training and prompts, or a step at a time over a cache.

Shapes: B batch, R rows of a cache, S steps, L condition length, D width.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lm_audio.networks.attention import (
    Attend,
    CrossAttention,
    SelfAttention,
    StepAttend,
    WholeAttend,
)
from lm_audio.networks.cpu.kernel_steps import KernelSteps
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.kv_cache import KVCache, padded
from lm_audio.networks.positions import RelativeBias, rotation, sinusoids


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a transformer.

    Args:
        num_positions: the size of the table of `learned` positions; others have no limit.
        window: the number of positions that each one attends to, itself included; None: all.
        bias: of the linear layers. Layer norms have one unless `norm_bias` is False.
        dropout: in training, after the attention and the feed-forward part.
    """

    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    positions: Literal["sinusoidal", "rotary", "relative", "learned"] = "rotary"
    num_positions: int | None = None
    norm: Literal["layer", "rms"] = "rms"
    activation: Literal["gelu", "swiglu"] = "swiglu"
    causal: bool = True
    window: int | None = None
    cross_attention: bool = False
    bias: bool = False
    norm_bias: bool = True
    norm_eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "hidden_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        rotates = self.positions == "rotary"
        if self.dim % self.num_heads or (rotates and self.head_dim % 2):
            expected = "2 x num_heads for rotary positions" if rotates else "num_heads"
            raise ValueError(
                f"dim must be a multiple of {expected}, got dim {self.dim} and num_heads "
                f"{self.num_heads}."
            )
        if self.positions == "sinusoidal" and self.dim < 4:
            raise ValueError(f"dim must be at least 4 for sinusoidal positions, got {self.dim}.")
        if (self.positions == "learned") != (self.num_positions is not None):
            raise ValueError("num_positions and learned positions require each other.")
        if self.window is not None and (self.window < 1 or not self.causal):
            raise ValueError(
                f"window must be at least 1 and needs a causal transformer, got {self.window}."
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


class Transformer(nn.Module):
    """Blocks of attention and feed-forward layers, and a last norm."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        if config.num_positions is not None:
            self.positions = nn.Embedding(config.num_positions, config.dim)
        if config.positions == "relative":
            self.relative_bias = RelativeBias(config.num_heads, causal=config.causal)
        kind = CausalBlock if config.causal else Block
        self.blocks: Any = nn.ModuleList(kind(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config)
        self.cache_dtype: torch.dtype | None = None  # that of the weights
        self.kernel_steps: KernelSteps | None = None  # set by `packing.pack`
        self.recomputes = False  # activation checkpointing in training

    def forward(
        self,
        x: Tensor,
        *,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        visible: Tensor | None = None,
        condition: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Runs over whole sequences x [B, S, D] and returns the same shape.

        Args:
            positions: [B, S]; 0, 1, 2 ... by default.
            mask: [B, S], False on padding.
            visible: [B, S, S], the keys that each query attends to, among those it may; all by
                default.
            condition: embeddings [B, L, D] and their mask [B, L], for cross-attention.
        """
        self._check_condition(condition)
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        bias = self._whole_bias(positions, mask, x.dtype)
        if visible is not None:
            bias = self._bias(positions, positions, x.dtype) if bias is None else bias
            bias = bias.masked_fill(~visible[:, None], -torch.inf)
        attend = WholeAttend(bias=bias, rotation=self._rotation(positions), condition=condition)
        return self._run(x, positions, attend)

    def prefill(self, x: Tensor, *, condition: Tensor | None, cache: KVCache) -> None:
        """Opens a row of the cache and fills it with x [1, S, D], S >= 0.

        Args:
            condition: [1, L, D], for cross-attention.
        """
        self._check_condition(condition)
        num_conditions = 0 if condition is None else condition.shape[1]
        cache.reserve(cache.num_rows + 1, x.shape[1], num_conditions)
        row = cache.open_row(num_conditions)
        if condition is not None:
            for layer, block in enumerate(self.blocks):
                k, v = block.cross_attention.keys_values(condition)
                cache.put_condition(layer, row, k[0], v[0])
        if x.shape[1]:
            positions = torch.arange(x.shape[1], device=x.device)[None]
            attend = WholeAttend(
                bias=self._whole_bias(positions, None, x.dtype),
                rotation=self._rotation(positions),
                cache=(cache, row),
            )
            self._run(x, positions, attend)

    def step(
        self, x: Tensor, *, rows: slice, positions: Tensor, length: int, cache: KVCache
    ) -> Tensor:
        """Runs one step x [R, D] of these rows of the cache, at positions [R]; returns [R, D].

        Args:
            length: one past the highest position, known without a device synchronisation.
        """
        keys = torch.arange(padded(length), device=x.device)[None]
        queries, turns = positions[:, None], self._rotation(positions[:, None])
        if self.kernel_steps is None:
            bias = self._bias(queries, keys, x.dtype)
            attend = StepAttend(cache, rows=rows, positions=positions, bias=bias, rotation=turns)
            return self._run(x[:, None], queries, attend)[:, 0]
        relative = None
        if self.config.positions == "relative":
            relative = self.relative_bias(queries, keys)[:, :, 0].contiguous()
        x = self.kernel_steps(
            self._placed(x[:, None], queries)[:, 0],
            rows=rows,
            positions=positions,
            cache=cache,
            bias=relative,
            rotation=turns,
        )
        return self.norm(x)

    def train(self, mode: bool = True) -> "Transformer":
        if mode:
            self.kernel_steps = None  # its layers are unpacked
            self.cache_dtype = None
        return super().train(mode)

    def new_cache(self) -> KVCache:
        """An empty cache for this transformer, on its device."""
        config, weight = self.config, self.norm.weight
        return KVCache(
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            dim=config.head_dim,
            device=weight.device,
            dtype=self.cache_dtype or weight.dtype,
        )

    def _check_condition(self, condition: object) -> None:
        if condition is not None and not self.config.cross_attention:
            raise ValueError("A condition needs a transformer with cross_attention=True.")

    def _run(self, x: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        x = self._placed(x, positions)
        for block in self.blocks:
            if self.recomputes and torch.is_grad_enabled():
                x = checkpoint(block, x, attend, use_reentrant=False)
            else:
                x = block(x, attend)
        return self.norm(x)

    def _placed(self, x: Tensor, positions: Tensor) -> Tensor:
        """x [B, S, D] plus the embeddings of its positions [B, S], if these are additive."""
        if self.config.positions == "sinusoidal":
            return x + sinusoids(positions, self.config.dim).to(x.dtype)
        if self.config.positions == "learned":
            return x + self.positions(positions)
        return x

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.config.positions != "rotary":
            return None
        return rotation(positions, self.config.head_dim)

    def _whole_bias(
        self, positions: Tensor, mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        config = self.config
        plain = mask is None and config.window is None and config.positions != "relative"
        if plain and config.causal:
            return None
        bias = self._bias(positions, positions, dtype)
        if mask is not None:  # padding attends to itself, so that its softmax is not empty
            itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
            bias = bias.masked_fill(~(mask[:, None, None] | itself), -torch.inf)
        return bias

    def _bias(self, queries: Tensor, keys: Tensor, dtype: torch.dtype) -> Tensor:
        """The bias added to scores between positions [B, S] and [B, L]: [B, 1 or H, S, L]."""
        config = self.config
        behind = queries[:, :, None] - keys[:, None, :]
        unseen = behind < 0 if config.causal else torch.zeros_like(behind, dtype=torch.bool)
        if config.window is not None:
            unseen = unseen | (behind >= config.window)
        bias = torch.zeros(behind.shape, dtype=dtype, device=behind.device)
        bias = bias.masked_fill(unseen, -torch.inf)[:, None]
        if config.positions == "relative":
            bias = bias + self.relative_bias(queries, keys).to(dtype)
        return bias


class Block(nn.Module):
    """Attention, cross-attention if any, and a feed-forward part, each added to its input."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = make_norm(config)
        self.attention = SelfAttention(config.dim, config.num_heads, bias=config.bias)
        self.cross_attention: CrossAttention | None = None
        if config.cross_attention:
            self.cross_attention_norm = make_norm(config)
            self.cross_attention = CrossAttention(config.dim, config.num_heads, bias=config.bias)
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        x = x + self._dropped(self.attention(self.attention_norm(x), self.layer, attend))
        if self.cross_attention is not None:
            queries = self.cross_attention_norm(x)
            x = x + self._dropped(self.cross_attention(queries, self.layer, attend))
        return x + self._dropped(self.feed_forward(self.feed_forward_norm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.training else x


class CausalBlock(Block):
    """A block of a language model: the unit of FSDP sharding.

    Encoders are not sharded, because some batches do not use them.
    """


class FeedForward(nn.Module):
    """Two linear layers around a GELU, or SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gated = config.activation == "swiglu"
        width = config.hidden_dim * (2 if self.gated else 1)
        self.input = Linear(config.dim, width, bias=config.bias)
        self.output = Linear(config.hidden_dim, config.dim, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            return self.output(F.silu(gate) * x)
        return self.output(F.gelu(x))


def make_norm(config: TransformerConfig) -> nn.LayerNorm | nn.RMSNorm:
    if config.norm == "rms":
        return nn.RMSNorm(config.dim, eps=config.norm_eps)
    return nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.norm_bias)
