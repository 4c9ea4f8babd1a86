"""Distances between waveforms over several resolutions, as RAVE and DDSP use them.

Shapes: B batch, C channels or bands, N samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SCALES = (2048, 1024, 512, 256, 128)
FLOOR = 1e-7


def spectral_distance(
    made: Tensor, true: Tensor, *, scales: Sequence[int] = SCALES, floor: float = FLOOR
) -> Tensor:
    """The mean over resolutions of two distances between magnitudes of waveforms [B, C, N].

    The first follows the loud parts: the norm of the difference relative to the true norm, both
    over the whole batch, in which some items may be silent. The second follows the quiet ones: the
    mean difference of logarithms.
    """
    terms = []
    for scale in scales:
        if scale // 2 >= true.shape[2]:  # padding by reflection needs more samples
            continue
        found, wanted = (_magnitudes(x.float().flatten(0, 1), scale) for x in (made, true))
        logarithms = ((found + floor).log() - (wanted + floor).log()).abs().mean()
        relative = (found - wanted).norm() / wanted.norm().clamp(min=1e-3)
        terms.append(relative + logarithms)
    if not terms:
        raise ValueError(f"{true.shape[2]} samples are too few for scales of {min(scales)}.")
    return torch.stack(terms).mean()


def _magnitudes(x: Tensor, scale: int) -> Tensor:
    window = torch.hann_window(scale, device=x.device)
    spectrum = torch.stft(x, scale, scale // 4, window=window, normalized=True, return_complex=True)
    # Not abs(), whose gradient at 0 is not finite.
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-14).sqrt()
