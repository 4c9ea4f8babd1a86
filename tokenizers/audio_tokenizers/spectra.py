"""Windows and mel bands, for networks and losses."""

import math

import torch
from torch import Tensor


def mel_filterbank(
    *,
    num_mels: int,
    num_bins: int,
    sample_rate: int,
    low: float = 0.0,
    high: float | None = None,
) -> Tensor:
    """Triangles of unit peak, evenly spaced on the mel scale: [num_mels, num_bins].

    The bins start at 0 Hz and exclude Nyquist. Each triangle covers at least its adjacent bins.

    Args:
        low, high: the ends of the scale in Hz; `high` is Nyquist by default.
    """
    bottom = 2595 * math.log10(1 + low / 700)
    top = 2595 * math.log10(1 + (sample_rate / 2 if high is None else high) / 700)
    # Explicit, since `with torch.device` misses linspace once transformers has patched it.
    mels = torch.linspace(bottom, top, num_mels + 2, device=torch.get_default_device())
    edges = 700 * (10 ** (mels / 2595) - 1)
    bin_width = sample_rate / 2 / num_bins
    centres = edges[1:-1, None]
    below = (centres - edges[:-2, None]).clamp(min=bin_width)
    above = (edges[2:, None] - centres).clamp(min=bin_width)
    frequencies = torch.arange(num_bins) * bin_width
    rising = (frequencies - centres) / below + 1
    falling = (centres - frequencies) / above + 1
    return torch.minimum(rising, falling).clamp(min=0)


def windows_of_hops(blocks: Tensor, *, overlap: int) -> Tensor:
    """Blocks of one hop [B, J + overlap - 1, hop] -> windows of many [B, J, overlap * hop].

    Shifted slices, not unfold: its backward pass is slow on a CPU.
    """
    J = blocks.shape[1] - overlap + 1
    return torch.cat([blocks[:, i : i + J] for i in range(overlap)], dim=-1)
