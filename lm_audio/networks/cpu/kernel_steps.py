"""Transformer steps with the CPU kernels: one call per block instead of about forty.

Shapes: R rows of a cache, H heads, L positions, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lm_audio.networks.cpu import kernels
from lm_audio.networks.cpu.int8 import Int8Linear
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.kv_cache import KVCache


class KernelSteps:
    """The blocks of a transformer in the kernels' format; shares their weights.

    Args:
        config: the `TransformerConfig`.
    """

    def __init__(self, blocks: Any, config: Any) -> None:
        self._config = config
        self._parts = [_parts(block) for block in blocks]

    @staticmethod
    def of(blocks: Any, config: Any) -> "KernelSteps | None":
        """None if a layer is not packed for the kernels, or has an unsupported shape."""
        layers = [x for x in blocks.modules() if isinstance(x, Linear | Int8Linear)]
        packed = all(x.by_kernel for x in layers)
        known = config.head_dim in kernels.HEAD_WIDTHS and config.hidden_dim % 4 == 0
        return KernelSteps(blocks, config) if packed and known else None

    def __call__(
        self,
        x: Tensor,
        *,
        rows: slice,
        positions: Tensor,
        cache: KVCache,
        bias: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """One step x [R, D] of these rows, at positions [R]: [R, D].

        Args:
            bias: [R, H, L], added to the scores.
            rotation: cosines and sines [R, 1, 1, D / 2] that rotate queries and keys.
        """
        config, lengths = self._config, positions + 1
        cos, sin = rotation if rotation is not None else (None, None)
        seen = cache.condition_lengths(rows) if config.cross_attention else None
        for layer, parts in enumerate(self._parts):
            keys, values = cache.all(layer, rows)
            condition = cache.condition(layer, rows)[:2] if seen is not None else (None, None)
            x = torch.ops.lm_audio.block(
                x,
                parts,
                config.num_heads,
                config.activation == "swiglu",
                config.norm == "rms",
                config.norm_eps,
                keys,
                values,
                lengths,
                config.window or 0,
                bias,
                cos,
                sin,
                *condition,
                seen,
            )
        return x


def _parts(block: Any) -> list[Tensor | None]:
    parts = [*_norm(block.attention_norm), *_layer(block.attention.input)]
    parts += _layer(block.attention.output)
    if block.cross_attention is not None:
        parts += [*_norm(block.cross_attention_norm), *_layer(block.cross_attention.query)]
        parts += _layer(block.cross_attention.output)
    parts += [*_norm(block.feed_forward_norm), *_layer(block.feed_forward.input)]
    return parts + _layer(block.feed_forward.output)


def _norm(norm: nn.LayerNorm | nn.RMSNorm) -> list[Tensor | None]:
    bias = getattr(norm, "bias", None)
    return [norm.weight.detach(), None if bias is None else bias.detach()]


def _layer(layer: Linear | Int8Linear) -> list[Tensor | None]:
    bias = None if layer.bias is None else layer.bias.detach().float()
    if isinstance(layer, Int8Linear):
        return [layer.weight, bias, layer.scale, layer.sums]
    return [layer.weight.detach(), bias, None, None]
