"""GPT-2 over vectors: each output is the next input, without a vocabulary.

Parameters are named as in transformers' GPT2Model, which changes the interface of its cache between
versions. Here the loop is all that is needed.

Shapes: B batch, S steps, D width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Gpt2Config:
    """The shape of a GPT-2."""

    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    num_positions: int
    eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ValueError(
                f"The width {self.dim} of GPT-2 is not a multiple of its {self.num_heads} heads."
            )


class Gpt2(nn.Module):
    """A causal transformer with learned positions."""

    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.config = config
        self.wpe = nn.Embedding(config.num_positions, config.dim)
        self.h = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.dim, eps=config.eps)

    def forward(self, x: Tensor, cache: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """Outputs [B, S, D] for the inputs [B, S, D] that follow those in the cache.

        Args:
            cache: keys and values [2, B, H, S, D] of each layer, extended in place; empty at first.
            mask: False for steps [S of cache and x] that nothing attends to.
        """
        before = cache[0].shape[3] if cache else 0
        B, S, _ = x.shape
        places = torch.arange(before, before + S, device=x.device)
        x = x + self.wpe(places)
        seen = torch.arange(before + S, device=x.device) <= places[:, None]
        if mask is not None:  # a step without any other attends to itself
            seen = seen & (mask | (torch.arange(before + S, device=x.device) == places[:, None]))
        for i, block in enumerate(self.h):
            if len(cache) == i:
                cache.append(x.new_zeros(2, B, self.config.num_heads, 0, self.config.head_dim))
            x, cache[i] = block(x, cache[i], seen)
        return self.ln_f(x)

    def continued(self, x: Tensor, *, num_steps: int, mask: Tensor | None = None) -> Tensor:
        """The next steps [1, S, D] of a sequence [1, S, D]; each output is the next input."""
        cache: list[Tensor] = []
        made = []
        for _ in range(num_steps):
            if mask is not None and len(mask) < x.shape[1] + (cache[0].shape[3] if cache else 0):
                mask = F.pad(mask, (0, 1), value=True)
            x = self(x, cache, mask)[:, -1:]
            made.append(x)
        return torch.cat(made, dim=1)


class _Block(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.dim, eps=config.eps)
        self.attn = _Attention(config)
        self.ln_2 = nn.LayerNorm(config.dim, eps=config.eps)
        self.mlp = _Mlp(config)

    def forward(self, x: Tensor, cache: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        y, cache = self.attn(self.ln_1(x), cache, seen)
        x = x + y
        return x + self.mlp(self.ln_2(x)), cache


class _Attention(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.c_attn = _Transposed(config.dim, 3 * config.dim)
        self.c_proj = _Transposed(config.dim, config.dim)

    def forward(self, x: Tensor, cache: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (
            y.unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for y in self.c_attn(x).chunk(3, dim=-1)
        )  # [1, H, S, D]
        cache = torch.cat([cache, torch.stack([k, v])], dim=3)
        y = F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=seen)
        return self.c_proj(y.transpose(1, 2).flatten(2)), cache


class _Mlp(nn.Module):
    def __init__(self, config: Gpt2Config) -> None:
        super().__init__()
        self.c_fc = _Transposed(config.dim, config.hidden_dim)
        self.c_proj = _Transposed(config.hidden_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class _Transposed(nn.Module):
    """A linear layer whose weight is stored as [inputs, outputs]."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, out_width))
        self.bias = nn.Parameter(torch.empty(out_width))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)
