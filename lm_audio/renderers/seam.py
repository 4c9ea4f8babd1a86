"""Inaudible seams between the user's samples and rendered ones.

A codec's version of a prompt differs from the prompt, so a plain cut from one to the other clicks.
Here the user's samples are unchanged and the rendered ones beside them are corrected: the error of
the rendering before the seam, the user's samples minus the rendered, is extrapolated across the
seam and faded out. The extrapolation has two parts:

- The predictable part of the error (linear prediction, Burg's method) continues: value, slope,
  tones and level. The random part need not continue, because jumps in noise are inaudible.
- If the rendering has less noise than the user's samples, the mirrored residual drives the
  predictor at the missing level, so that the noise fades out instead of stopping.

The correction needs no samples after the seam, so a continuation streams without delay.

Shapes: C channels, N samples, L samples beside the seam, P taps of the predictor.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FADE_SECONDS = 0.03
HISTORY_SECONDS = 0.04
ORDER = 32
TINY = 1e-30  # far below the power of any audible sample


class Continuation:
    """Turns a stream of rendered samples into those that follow the prompt, in constant memory.

    The result does not depend on how samples are pushed.

    Args:
        prompt: [C, N], or its last part; the last tens of milliseconds are used. The rendered
            samples start where it starts.
    """

    def __init__(self, prompt: Tensor, sample_rate: int) -> None:
        self._history_length = history_length(sample_rate)
        self._fade_length = round(FADE_SECONDS * sample_rate)
        self._prompt = prompt[:, -self._history_length :].clone()
        self._rendered = prompt[:, :0]  # [C, L], the last that cover the prompt
        self._to_skip = prompt.shape[1]
        self._correction = prompt[:, :0]  # of the next samples

    def push(self, rendered: Tensor) -> Tensor:
        """Adds rendered samples [C, n >= 0] and returns those after the prompt."""
        _check_channels(rendered, len(self._prompt))
        if self._to_skip:
            skipped, rendered = rendered[:, : self._to_skip], rendered[:, self._to_skip :]
            self._to_skip -= skipped.shape[1]
            seen = torch.cat([self._rendered, skipped], dim=1)
            self._rendered = seen[:, -self._history_length :].clone()
            if self._to_skip:
                return rendered
            self._correction = correction(self._prompt, self._rendered, length=self._fade_length)
        n = min(rendered.shape[1], self._correction.shape[1])
        now, self._correction = self._correction[:, :n], self._correction[:, n:]
        return torch.cat([rendered[:, :n] + now, rendered[:, n:]], dim=1)

    def finish(self) -> Tensor:
        """Ends the stream and returns no samples, [C, 0], since none are buffered."""
        return self._prompt[:, :0]


def continued(prompt: Tensor, rendered: Tensor, *, sample_rate: int) -> Tensor:
    """The prompt [C, N], then the rest of the rendered samples [C, M]: [C, M].

    The rendered samples start where the prompt starts.
    """
    return torch.cat([prompt, Continuation(prompt, sample_rate).push(rendered)], dim=1)


def inpainted(
    samples: Tensor, rendered: Tensor, *, start: int, end: int, sample_rate: int
) -> Tensor:
    """The samples [C, N] with those from `start` to `end` replaced by rendered ones: [C, N].

    Args:
        rendered: [C, M], aligned with the start of `samples`, M at least `end`; tens of
            milliseconds more are used to correct the right seam.
    """
    _check_channels(rendered, len(samples))
    if not 0 <= start < end <= min(samples.shape[1], rendered.shape[1]):
        raise ValueError(
            f"Expected a span within {samples.shape[1]} samples and {rendered.shape[1]} rendered "
            f"ones, got {start} to {end}."
        )
    history = history_length(sample_rate)
    fade = min(round(FADE_SECONDS * sample_rate), end - start)
    left = slice(max(0, start - history), start)
    right = slice(end, min(end + history, samples.shape[1], rendered.shape[1]))
    filled = rendered[:, start:end].clone()
    filled[:, :fade] += correction(samples[:, left], rendered[:, left], length=fade)
    backwards = correction(samples[:, right].flip(1), rendered[:, right].flip(1), length=fade)
    filled[:, -fade:] += backwards.flip(1)
    return torch.cat([samples[:, :start], filled, samples[:, end:]], dim=1)


def correction(original: Tensor, rendered: Tensor, *, length: int) -> Tensor:
    """The correction to add to the `length` rendered samples after a seam: [C, length].

    Args:
        original: [C, L], the user's samples before the seam.
        rendered: [C, L], the rendered version of `original`.
    """
    C, L = original.shape
    if L == 0:
        return original.new_zeros(C, length)
    error = (original - rendered).double()
    taps = burg(error, order=min(ORDER, L // 2))
    residual = _residual(error, taps)
    wanted, given = (_power(_residual(x.double(), taps)) for x in (original, rendered))
    share = ((wanted - given) / _power(residual).clamp(min=TINY)).clamp(0, 1).sqrt()  # [C]
    drive = (residual.flip(1) * share[:, None])[:, :length]
    drive = F.pad(drive, (0, length - drive.shape[1]))
    P, peak = taps.shape[1], error.abs().amax(1, keepdim=True)
    extended = torch.cat([error[:, L - P :], drive], dim=1)
    for i in range(P, P + length):
        extended[:, i] -= (taps * extended[:, i - P : i]).sum(1)
    phase = (torch.arange(length, dtype=torch.float64, device=error.device) + 0.5) / length
    fade = 0.5 + 0.5 * torch.cos(math.pi * phase)
    # Otherwise an error that grows towards the seam would keep growing.
    return (extended[:, P:].clamp(-peak, peak) * fade).to(original.dtype)


def history_length(sample_rate: int) -> int:
    """The number of samples before a seam that are analysed."""
    return round(HISTORY_SECONDS * sample_rate)


def burg(x: Tensor, *, order: int) -> Tensor:
    """The linear predictor of x [C, L] by Burg's method, which is always stable: taps [C, order].

    A sample is predicted as minus the sum of the taps times the samples before it, oldest first.
    """
    forward, backward = x[:, 1:], x[:, :-1]
    taps = x.new_ones(len(x), 1)  # newest first, beginning with the sample itself
    for _ in range(order):
        power = (forward.square() + backward.square()).sum(1)
        k = (-2 * (forward * backward).sum(1) / power.clamp(min=TINY))[:, None]
        taps = F.pad(taps, (0, 1))
        taps = taps + k * taps.flip(1)
        forward, backward = (forward + k * backward)[:, 1:], (backward + k * forward)[:, :-1]
    return taps[:, 1:].flip(1)


def _check_channels(rendered: Tensor, num_channels: int) -> None:
    if rendered.ndim != 2 or len(rendered) != num_channels:
        raise ValueError(
            f"Expected rendered samples of shape [{num_channels}, N], got {list(rendered.shape)}."
        )


def _residual(x: Tensor, taps: Tensor) -> Tensor:
    """The prediction residual of x [C, L]: [C, L - P]."""
    P = taps.shape[1]
    before = x.unfold(1, P, 1)[:, :-1] if P else x.new_zeros(*x.shape, 0)  # [C, L - P, P]
    return x[:, P:] + (before * taps[:, None]).sum(2)


def _power(x: Tensor) -> Tensor:
    return x.square().sum(1)
