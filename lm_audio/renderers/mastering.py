"""The last step from rendered samples to a clip: loudness, the seam after a prompt, peaks.

Shapes: C channels, N samples.
"""

import torch
from torch import Tensor

from lm_audio.renderers.limiter import CEILING, Limiter
from lm_audio.renderers.loudness import Leveller
from lm_audio.renderers.seam import Continuation, history_length, inpainted


class Mastering:
    """Turns a stream of rendered samples into those of the clip, about a second later.

    The result does not depend on how samples are pushed. A prompt is not changed: new audio follows
    its loudness and may reach its peak.

    Args:
        prompt: samples [C, N] at the start of the clip; the rendered samples start with its last
            `prompt_tail` samples.
        raw: keep the rendered level.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        num_channels: int,
        prompt: Tensor | None = None,
        prompt_tail: int = 0,
        raw: bool = False,
    ) -> None:
        overlap = min(prompt_tail, history_length(sample_rate))
        self._to_skip = prompt_tail - overlap
        self._empty = torch.zeros(num_channels, 0)
        self._steps: list[Leveller | Continuation | Limiter] = []
        if not raw:
            self._steps.append(
                Leveller(sample_rate, num_channels=num_channels, before=prompt, overlap=overlap)
            )
        if prompt is not None:
            self._steps.append(Continuation(prompt[:, prompt.shape[1] - overlap :], sample_rate))
        if not raw:
            ceiling = highest_peak(prompt)
            self._steps.append(Limiter(sample_rate, num_channels=num_channels, ceiling=ceiling))

    def push(self, rendered: Tensor) -> Tensor:
        """Takes the next rendered samples [C, n >= 0], returns those of the clip that are final."""
        skipped = min(self._to_skip, rendered.shape[1])
        self._to_skip -= skipped
        samples = rendered[:, skipped:]
        for step in self._steps:
            samples = step.push(samples)
        return samples

    def finish(self) -> Tensor:
        """Ends the stream; returns the samples that are left."""
        samples = self._empty
        for step in self._steps:
            samples = torch.cat([step.push(samples), step.finish()], dim=1)
        return samples


def fill_span(
    samples: Tensor, rendered: Tensor, *, start: int, end: int, sample_rate: int, raw: bool
) -> Tensor:
    """The samples [C, N] with those from `start` to `end` replaced by rendered ones: [C, N].

    Args:
        rendered: [C, M], aligned with the start of `samples`.
        raw: keep the rendered level.
    """
    if raw:
        return inpainted(samples, rendered, start=start, end=end, sample_rate=sample_rate)
    C, num_behind = len(samples), samples.shape[1] - end
    before = samples[:, :start] if start >= num_behind else samples[:, end:]
    overlap = min(start, history_length(sample_rate))
    first = start - overlap
    leveller = Leveller(sample_rate, num_channels=C, before=before, overlap=overlap)
    level = torch.cat([leveller.push(rendered[:, first:]), leveller.finish()], dim=1)
    level = torch.cat([rendered[:, :first], level], dim=1)
    filled = inpainted(samples, level, start=start, end=end, sample_rate=sample_rate)
    limiter = Limiter(sample_rate, num_channels=C, ceiling=highest_peak(samples))
    limited = torch.cat([limiter.push(filled[:, start:end]), limiter.finish()], dim=1)
    return torch.cat([filled[:, :start], limited, filled[:, end:]], dim=1)


def highest_peak(samples: Tensor | None) -> float:
    """The highest allowed peak of new audio beside these samples [C, N]."""
    if samples is None or not samples.numel():
        return CEILING
    return max(CEILING, min(1.0, float(samples.abs().max())))
