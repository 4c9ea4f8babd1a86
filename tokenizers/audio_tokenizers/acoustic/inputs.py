"""Validates the inputs of a codec.

Shapes: B batch, C channels, N samples, K codebooks, T frames.
"""

import torch
from torch import Tensor


def check_samples(samples: Tensor, *, num_channels: int, allow_empty: bool = False) -> None:
    """Raises unless samples are [B, C, N], float32, with `num_channels` channels and no empty axis.

    Args:
        allow_empty: whether N may be 0, as in a push to a stream.
    """
    if samples.ndim != 3:
        raise ValueError(
            f"Got samples of shape {list(samples.shape)}; expected [B, C, N]. Add the missing axes."
        )
    if samples.dtype != torch.float32:
        raise ValueError(
            f"Got samples of type {samples.dtype}; expected torch.float32. Convert them."
        )
    B, C, N = samples.shape
    if num_channels != C:
        raise ValueError(f"Got {C} channels; this codec takes {num_channels}. Mix or repeat them.")
    if B == 0 or (N == 0 and not allow_empty):
        raise ValueError(
            f"Got samples of shape {list(samples.shape)}; expected at least one sample."
        )


def check_tokens(
    tokens: Tensor, *, num_codebooks: int, codebook_size: int, allow_empty: bool = False
) -> None:
    """Raises unless tokens are [B, K, T], int64, K at most `num_codebooks`, each in its codebook.

    Args:
        allow_empty: whether T may be 0, as in a push to a stream.
    """
    if tokens.ndim != 3:
        raise ValueError(
            f"Got tokens of shape {list(tokens.shape)}; expected [B, K, T]. Add the missing axes."
        )
    if tokens.dtype != torch.int64:
        raise ValueError(f"Got tokens of type {tokens.dtype}; expected torch.int64. Convert them.")
    B, K, T = tokens.shape
    if not 1 <= K <= num_codebooks:
        raise ValueError(f"Got {K} codebooks; this codec decodes 1 to {num_codebooks}.")
    if B == 0 or (T == 0 and not allow_empty):
        raise ValueError(f"Got tokens of shape {list(tokens.shape)}; expected at least one frame.")
    if T == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(tokens))
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"Got tokens from {low} to {high}; expected 0 to {codebook_size - 1}. "
            "Remove special tokens first."
        )


def check_num_codebooks(num_codebooks: int | None, *, available: int, least: int = 1) -> int:
    """The number of codebooks to use; None means all."""
    if num_codebooks is None:
        return available
    if not least <= num_codebooks <= available:
        raise ValueError(
            f"Got num_codebooks={num_codebooks}; this codec takes {least} to {available}."
        )
    return num_codebooks


def check_num_samples(num_samples: int | None, *, available: int) -> int:
    """The length to restore; None means all samples of the tokens."""
    if num_samples is None:
        return available
    if not 1 <= num_samples <= available:
        raise ValueError(
            f"Got num_samples={num_samples}; these tokens decode to 1 to {available} samples."
        )
    return num_samples


def check_no_gains(gains: Tensor | None) -> None:
    """Raises if gains are passed to a codec that does not normalise its input."""
    if gains is not None:
        raise ValueError("Got gains, but this codec does not normalise its input; remove them.")
