"""The language model of every stage: a transformer over J streams of tokens.

It does not depend on the meaning of the tokens or on the codebook pattern.

Shapes: B batch, R rows of a cache, J streams, S steps, P prefix, L condition length, D width,
V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lm_audio.networks.condition import Fused
from lm_audio.networks.cpu.linear import Linear
from lm_audio.networks.kv_cache import KVCache
from lm_audio.networks.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class TokenLMConfig:
    """The shape of a token language model.

    Args:
        vocab_size: the number of tokens per stream.
        num_inputs: the number of input tokens; those beyond `vocab_size` are special ones, such as
            the start token, which heads never predict. Defaults to `vocab_size` + 1.
    """

    transformer: TransformerConfig
    num_streams: int
    vocab_size: int
    num_inputs: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.transformer, dict):  # as config.json has it
            object.__setattr__(self, "transformer", TransformerConfig(**self.transformer))
        object.__setattr__(self, "num_inputs", self.num_inputs or self.vocab_size + 1)
        if self.num_streams < 1 or self.vocab_size < 1 or self.num_inputs < self.vocab_size:
            raise ValueError(
                "num_streams and vocab_size must be at least 1 and num_inputs at least vocab_size, "
                f"got {self.num_streams}, {self.vocab_size} and {self.num_inputs}."
            )


class TokenLM(nn.Module):
    """Embeddings of J streams, summed; a transformer; a head for each stream."""

    def __init__(self, config: TokenLMConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.transformer.dim
        self.embedding = nn.Embedding(config.num_streams * config.num_inputs, dim)
        self.transformer = Transformer(config.transformer)
        self.heads = Linear(dim, config.num_streams * config.vocab_size, bias=False)
        self.apply(_initialise)
        for block in self.transformer.blocks:  # residual branches add up
            scale = (2 * (block.layer + 1)) ** -0.5
            for module in (block.attention, block.cross_attention, block.feed_forward):
                if module is not None:
                    module.output.weight.data *= scale

    def forward(
        self,
        tokens: Tensor,
        *,
        fused: Fused | None = None,
        mask: Tensor | None = None,
        reach: Tensor | None = None,
    ) -> Tensor:
        """Logits [B, J, S, V] for each step of tokens [B, J, S]: of the next step, if causal.

        Args:
            fused: the prompts, as conditioners make them.
            mask: [B, S], False on padding.
            reach: [B], the largest distance in steps between which a row attends; all by default.
        """
        x = self._with_sum(self.embed(tokens), fused)
        positions = condition = None
        prefix = fused.prepend if fused is not None else None
        if prefix is not None:
            x = torch.cat([prefix.embeddings.to(x.dtype), x], dim=1)  # [B, P + S, D]
            real = mask if mask is not None else tokens.new_ones(len(x), tokens.shape[2]).bool()
            mask = torch.cat([prefix.mask, real], dim=1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            mask = None if len(x) == 1 and prefix.mask.all() and real.all() else mask
        if fused is not None and fused.cross is not None:
            condition = (fused.cross.embeddings.to(x.dtype), fused.cross.mask)
        visible = None if reach is None else _within(reach, tokens.shape[2], x.shape[1])
        x = self.transformer(
            x, positions=positions, mask=mask, visible=visible, condition=condition
        )
        return self.logits(x[:, -tokens.shape[2] :])

    def prefill(self, tokens: Tensor, *, fused: Fused, cache: KVCache) -> None:
        """Prefills a new row of the cache with the prefix and a prompt.

        Args:
            tokens: [1, J, S], S >= 0.
        """
        x = self._with_sum(self.embed(tokens), fused)
        if fused.prepend is not None:
            x = torch.cat([fused.prepend.embeddings.to(x.dtype), x], dim=1)  # [1, P + S, D]
        condition = None if fused.cross is None else fused.cross.embeddings.to(x.dtype)
        self.transformer.prefill(x, condition=condition, cache=cache)

    def step(
        self,
        tokens: Tensor,
        *,
        sums: Tensor | None,
        rows: slice,
        positions: Tensor,
        length: int,
        cache: KVCache,
    ) -> Tensor:
        """Logits [R, J, V] after one step of tokens [R, J] in these rows of the cache.

        Args:
            sums: [R, D], added to the embeddings.
            positions: [R], the current positions; `length` is one past the highest.
        """
        x = self.embed(tokens[..., None])[:, 0]  # [R, D]
        if sums is not None:
            x = x + sums.to(x.dtype)
        x = self.transformer.step(x, rows=rows, positions=positions, length=length, cache=cache)
        return self.logits(x[:, None])[:, :, 0]

    def embed(self, tokens: Tensor) -> Tensor:
        """The sum [B, S, D] of the embeddings of tokens [B, J, S]."""
        first = torch.arange(self.config.num_streams, device=tokens.device)
        rows = tokens + first[:, None] * self.config.num_inputs
        x, *others = self.embedding(rows).unbind(1)  # one lookup for a single gradient of the table
        for other in others:
            x = x + other
        return x.to(self.transformer.norm.weight.dtype)  # tables may be rounded, sums are not

    def logits(self, x: Tensor) -> Tensor:
        """The logits [B, J, S, V] of the heads for the transformer's output [B, S, D]."""
        B, S, _ = x.shape
        return self.heads(x).view(B, S, self.config.num_streams, -1).transpose(1, 2)

    def _with_sum(self, x: Tensor, fused: Fused | None) -> Tensor:
        return x if fused is None or fused.sum is None else x + fused.sum.to(x.dtype)


def _within(reach: Tensor, num_steps: int, length: int) -> Tensor:
    """Whether each position attends to each other [B, length, length]; a prefix always does."""
    step = torch.arange(num_steps, device=reach.device)
    near = (step[:, None] - step).abs() <= reach[:, None, None]  # [B, S, S]
    prefix = length - num_steps
    return nn.functional.pad(near, (prefix, 0, prefix, 0), value=True)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=module.weight.shape[1] ** -0.5)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
