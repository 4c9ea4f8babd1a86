"""Attention: the projections, and attention over whole sequences or one step at a time.

Shapes: B batch, R rows of a cache, H heads, S steps, L keys, D width of the model or of a head.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.kv_cache import KVCache
from lm_audio.networks.positions import rotate


class Attend(Protocol):
    """Computes attention for given queries, and stores keys and values."""

    def to_self(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attends from q [B, H, S, D] to stored and new keys and values [B, H, S, D], rotated."""

    def to_condition(self, layer: int, q: Tensor, module: "CrossAttention") -> Tensor:
        """Attends from q [B, H, S, D] to the condition."""


class SelfAttention(nn.Module):
    """Queries, keys and values of one input."""

    def __init__(self, dim: int, num_heads: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input = Linear(dim, 3 * dim, bias=bias)
        self.output = Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        q, k, v = (split_heads(part, self.num_heads) for part in self.input(x).chunk(3, dim=-1))
        return self.output(merge_heads(attend.to_self(layer, q, k, v)))


class CrossAttention(nn.Module):
    """Queries of the input; keys and values of a condition."""

    def __init__(self, dim: int, num_heads: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = Linear(dim, dim, bias=bias)
        self.key_value = Linear(dim, 2 * dim, bias=bias)
        self.output = Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        q = split_heads(self.query(x), self.num_heads)
        return self.output(merge_heads(attend.to_condition(layer, q, self)))

    def keys_values(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, L, D] of a condition [B, L, D]."""
        k, v = self.key_value(condition).chunk(2, dim=-1)
        return split_heads(k, self.num_heads), split_heads(v, self.num_heads)


class WholeAttend:
    """Attends within whole sequences; can store the keys and values for later steps.

    Args:
        bias: [B, 1 or H, S, S], added to the scores; None: causal.
        condition: [B, L, D] and its mask [B, L], False on padding.
        cache: stores the keys and values of the only sequence, B = 1, in this row, which already
            has those of its condition.
    """

    def __init__(
        self,
        *,
        bias: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None = None,
        condition: tuple[Tensor, Tensor] | None = None,
        cache: tuple[KVCache, int] | None = None,
    ) -> None:
        self._bias = bias
        self._rotation = rotation
        self._condition = condition
        self._cache = cache

    def to_self(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = _turned(q, k, self._rotation)
        if self._cache is not None:
            cache, row = self._cache
            cache.put(layer, row, k[0], v[0])
        bias = self._bias
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=bias is None)

    def to_condition(self, layer: int, q: Tensor, module: CrossAttention) -> Tensor:
        if self._cache is not None:
            cache, row = self._cache
            k, v, bias = cache.condition_of(layer, row)
            k, v, bias = (x.to(q.dtype) for x in (k, v, bias))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        if self._condition is None:
            raise ValueError("The model needs a condition for cross-attention, got none.")
        embeddings, mask = self._condition
        k, v = module.keys_values(embeddings)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])


class StepAttend:
    """Attends from one new position of each row to the row's cache.

    Written as matrix products: their result for a row is bit-identical in any batch and at any
    padded length, unlike that of `scaled_dot_product_attention` with more than one thread.

    Args:
        positions: [R], of the new keys and values.
        bias: [R, 1 or H, 1, L], added to the scores, -inf beyond the end of a row.
    """

    def __init__(
        self,
        cache: KVCache,
        *,
        rows: slice,
        positions: Tensor,
        bias: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self._cache = cache
        self._rows = rows
        self._positions = positions
        self._bias = bias
        self._rotation = rotation

    def to_self(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = _turned(q, k, self._rotation)
        self._cache.add(layer, self._rows, self._positions, k[:, :, 0], v[:, :, 0])
        k, v = self._cache.kept(layer, self._rows, self._bias.shape[-1])
        return _attention(q, k, v, self._bias)

    def to_condition(self, layer: int, q: Tensor, module: CrossAttention) -> Tensor:  # noqa: ARG002
        k, v, bias = self._cache.condition(layer, self._rows)
        return _attention(q, k, v, bias)


def _turned(q: Tensor, k: Tensor, by: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    return (q, k) if by is None else (rotate(q, by), rotate(k, by))


def _attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias
    return torch.softmax(scores, dim=-1) @ v


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    B, S, D = x.shape
    return x.view(B, S, num_heads, D // num_heads).transpose(1, 2)  # [B, H, S, D / H]


def merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B, S, H * D]
