"""Named shapes of token language models; derive variants with `dataclasses.replace`."""

from lm_audio.networks.token_lm import TokenLMConfig
from lm_audio.networks.transformer import TransformerConfig


def tiny(
    *, num_streams: int = 4, vocab_size: int = 64, cross_attention: bool = True
) -> TokenLMConfig:
    """Runs in milliseconds: for tests and for trying a recipe."""
    transformer = TransformerConfig(
        dim=32, num_layers=2, num_heads=2, hidden_dim=64, cross_attention=cross_attention
    )
    return TokenLMConfig(transformer=transformer, num_streams=num_streams, vocab_size=vocab_size)


def small(*, num_streams: int = 4, vocab_size: int = 2048) -> TokenLMConfig:
    """The shape of musicgen-small, 420 million parameters."""
    return _musicgen(1024, 24, 16, num_streams, vocab_size)


def medium(*, num_streams: int = 4, vocab_size: int = 2048) -> TokenLMConfig:
    """The shape of audiogen-medium and musicgen-medium, 1.8 billion parameters."""
    return _musicgen(1536, 48, 24, num_streams, vocab_size)


def large(*, num_streams: int = 4, vocab_size: int = 2048) -> TokenLMConfig:
    """The shape of musicgen-large, 3.3 billion parameters."""
    return _musicgen(2048, 48, 32, num_streams, vocab_size)


def audiolm(*, vocab_size: int, cross_attention: bool = False) -> TokenLMConfig:
    """The shape of each stage of AudioLM (arXiv 2209.03143), one flattened stream."""
    transformer = TransformerConfig(
        dim=1024,
        num_layers=12,
        num_heads=16,
        hidden_dim=4096,
        positions="relative",
        norm="layer",
        activation="gelu",
        cross_attention=cross_attention,
        dropout=0.1,
    )
    return TokenLMConfig(transformer=transformer, num_streams=1, vocab_size=vocab_size)


def compact(
    *, dim: int, num_layers: int, reads: bool = False, dropout: float = 0.1
) -> TransformerConfig:
    """A shape for little training data: heads of 64, rotary positions, SwiGLU.

    Args:
        reads: two-sided, for text encoders, instead of causal with cross-attention.
    """
    return TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=dim // 64,
        hidden_dim=dim * 11 // 4,
        causal=not reads,
        cross_attention=not reads,
        dropout=dropout,
    )


def _musicgen(
    dim: int, num_layers: int, num_heads: int, num_streams: int, vocab_size: int
) -> TokenLMConfig:
    transformer = TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=4 * dim,
        positions="sinusoidal",
        norm="layer",
        activation="gelu",
        cross_attention=True,
    )
    return TokenLMConfig(transformer=transformer, num_streams=num_streams, vocab_size=vocab_size)
