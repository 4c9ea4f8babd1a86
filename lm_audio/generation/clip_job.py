"""One clip in the making: its runs, and the sound of the frames that are decided.

Shapes: C channels, N samples, K codebooks, T frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.request import Request
from lm_audio.generation.track import Run
from lm_audio.renderers.protocol import Renderer
from lm_audio.renderers.seam import Continuation


class Making:
    """A clip in the making; sound comes as soon as its frames are decided.

    Args:
        runs: one for each stage that is needed.
        output_stages: those whose tokens, one set of codebooks after the other, are rendered.
        prompt: the samples [C, N] that come before the new ones, of which the runs' tokens hold
            the last `prompt_tail`.
    """

    def __init__(
        self,
        request: Request,
        *,
        runs: dict[str, Run],
        output_stages: Sequence[str],
        renderer: Renderer,
        prompt: Tensor | None = None,
        prompt_tail: int = 0,
    ) -> None:
        self.runs = runs
        self._request = request
        self._output = [runs[name] for name in output_stages]
        self._stream = renderer.stream()
        self._renderer = renderer
        self._prompt = prompt
        tail = None if prompt is None else prompt[:, prompt.shape[1] - prompt_tail :]
        self._seam = None if tail is None else Continuation(tail, renderer.sample_rate)
        self._pushed = 0
        self._samples_left = request.num_samples
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether all its tokens are decided."""
        return all(run.done for run in self._output)

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if self.done:
            return 1.0
        runs = self.runs.values()
        return sum(run.num_done for run in runs) / max(1, sum(run.num_frames for run in runs))

    def sound(self) -> Tensor:
        """The samples [C, N >= 0] that became final since the last call."""
        if self._ended:
            return torch.zeros(self._renderer.num_channels, 0)
        ready = min(run.num_done for run in self._output)
        samples = self._stream.push(self._tokens(self._pushed, ready))
        self._pushed = ready
        if self.done:
            self._ended = True
            samples = torch.cat([samples, self._stream.finish()], dim=1)
        return self._new(samples)

    def clip(self, sound: Sequence[Tensor]) -> Clip:
        """The finished clip, from all that `sound` gave."""
        samples = torch.cat(list(sound), dim=1)
        if self._prompt is not None:
            samples = torch.cat([self._prompt, samples], dim=1)
        return Clip(
            samples=samples,
            sample_rate=self._renderer.sample_rate,
            tokens=self._tokens(0, self._pushed).cpu(),
            stage_tokens={
                name: run.tokens[:, : run.num_done].cpu() for name, run in self.runs.items()
            },
            seed=self._request.seed,
            prompt=self._request.prompt,
        )

    def _tokens(self, start: int, stop: int) -> Tensor:
        return torch.cat([run.tokens[:, start:stop] for run in self._output])

    def _new(self, samples: Tensor) -> Tensor:
        samples = samples.cpu().float()
        if self._seam is not None:
            samples = self._seam.push(samples)
            if self._ended:
                samples = torch.cat([samples, self._seam.finish()], dim=1)
        samples = samples[:, : self._samples_left]
        if self._ended:  # what a stage ended early is silent to the end
            missing = self._samples_left - samples.shape[1]
            samples = torch.nn.functional.pad(samples, (0, missing))
        self._samples_left -= samples.shape[1]
        return samples
