"""Renders loops: clips whose end leads to their beginning without a seam.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

import math

import torch
from torch import Tensor

from lm_audio.renderers.limiter import CEILING, Limiter
from lm_audio.renderers.loudness import even_gain
from lm_audio.renderers.protocol import LoopRenderer, Renderer

AROUND = 64  # frames of the loop that are rendered before and after it, for the renderer's context
FADE_SECONDS = 0.05


def render_loop(values: Tensor, renderer: Renderer, *, num_samples: int, raw: bool) -> Tensor:
    """The samples [C, N] of a loop of values [K, T], which cover them.

    Args:
        raw: keep the rendered level.
    """
    if isinstance(renderer, LoopRenderer):
        samples = renderer.render_loop(values, num_samples=num_samples).cpu()
    else:
        T = values.shape[1]
        around = min(T, AROUND)
        frames = torch.arange(-around, T + around, device=values.device) % T
        first = around * renderer.hop_length
        rendered = renderer.render(values[:, frames])[:, first : first + T * renderer.hop_length]
        samples = shortened(rendered.cpu().float(), num_samples, renderer.sample_rate)
    return samples if raw else levelled(samples, renderer.sample_rate)


def shortened(loop: Tensor, num_samples: int, sample_rate: int) -> Tensor:
    """A loop [C, P] cut to N samples, with a fade to the P - N that it skips: [C, N]."""
    skipped = loop.shape[1] - num_samples
    fade = min(num_samples, round(FADE_SECONDS * sample_rate))
    if skipped == 0:
        return loop
    share = (torch.arange(fade) + 1) / fade
    end = (1 - share) * loop[:, num_samples - fade : num_samples] + share * loop[:, -fade:]
    return torch.cat([loop[:, : num_samples - fade], end], dim=1)


def levelled(loop: Tensor, sample_rate: int) -> Tensor:
    """A loop [C, N] at one gain, normalised and limited as if it were played on and on."""
    C, N = loop.shape
    turns = 2 * math.ceil(sample_rate / N) + 1  # at least a second on each side
    samples = (loop * 10 ** (even_gain(loop, sample_rate) / 20)).repeat(1, turns)
    limiter = Limiter(sample_rate, num_channels=C, ceiling=CEILING)
    limited = torch.cat([limiter.push(samples), limiter.finish()], dim=1)
    first = turns // 2 * N
    return limited[:, first : first + N]
