"""A clip in progress: a track per stage, and the audio of the decided frames.

Shapes: C channels, N samples, K codebooks or latent width, T frames.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from lm_audio.clip import Clip
from lm_audio.generation.prompt import Prompt
from lm_audio.generation.request import (
    Request,
    check_request,
    followed_sampling,
    given_values,
    overlap_frames_of,
)
from lm_audio.generation.track import Embedded, Stage, Track, Variation, unknown_values
from lm_audio.renderers.loop import render_loop
from lm_audio.renderers.mastering import Mastering
from lm_audio.renderers.protocol import Renderer

EVEN = 0.5
"""The share of other audio in a variation, by default."""


def make_tracks(
    request: Request,
    *,
    stages: Sequence[Stage],
    renderer: Renderer,
    output_stages: Collection[str],
    num_samples: int,
    prompt: Prompt | None = None,
    towards: Prompt | None = None,
    first: int = 0,
    whole: int | None = None,
) -> dict[str, Track]:
    """A track for each required stage, by stage name.

    Args:
        num_samples: the total of prompt and new samples.
        first, whole: the sample of the recording where these begin, and how many it has; by default
            they are all of it.
        prompt: the start of the clip, or the audio to vary if the request has a strength.
        towards: other audio to mix in.
    """
    made = needed(stages, output_stages=output_stages, given=request.tokens)
    check_request(request, stages, made, seconds=request.num_samples / renderer.sample_rate)
    tracks: dict[str, Track] = {}
    embedded: Embedded = {}
    varied = prompt if request.strength is not None else None
    for stage in made:
        values, starts = _values(
            stage, request, renderer, num_samples, None if varied is not None else prompt
        )
        tracks[stage.name] = Track(
            values=values,
            starts=starts,
            seed=request.seed,
            sampling=followed_sampling(stage, request),
            conditions={k: v for k, v in request.conditions.items() if k in stage.conditions},
            negative={k: v for k, v in request.negative.items() if k in stage.conditions},
            embedded=embedded,
            source=None if stage.source is None else tracks.get(stage.source.stage),
            open_end=stage.may_end,
            overlap_frames=overlap_frames_of(stage, request),
            is_vector=stage.makes.kind == "vector",
            variation=_variation(stage, request, varied, towards, values.shape[1]),
            loop=request.loop,
            seconds=(num_samples if whole is None else whole) / renderer.sample_rate,
            starts_at=first / renderer.sample_rate,
        )
        stage.check(tracks[stage.name])
    return tracks


def needed(
    stages: Sequence[Stage], *, output_stages: Collection[str], given: Collection[str]
) -> list[Stage]:
    """The output stages and all stages that they depend on, except those whose values are given."""
    names = set(output_stages)
    for stage in reversed(stages):
        if stage.name in names and stage.name not in given and stage.source is not None:
            names.add(stage.source.stage)
    return [stage for stage in stages if stage.name in names]


def num_frames(stage: Stage, renderer: Renderer, num_samples: int) -> int:
    """The number of frames of a stage that cover this many samples."""
    if stage.makes.kind == "vector":
        return stage.makes.num_vectors
    if stage.makes.content == renderer.signal.content:
        return renderer.num_frames(num_samples)
    return math.ceil(Fraction(num_samples, renderer.sample_rate) * stage.makes.rate)


class ClipJob:
    """A clip in progress; frames are rendered as soon as they are decided.

    Args:
        tracks: one per required stage.
        output_stages: the stages whose values are stacked along the rows and rendered.
        prompt: the samples [C, N] before the new ones; the tracks contain its last `prompt_tail`
            samples.
        model: the name of the model, if it has one.
        settings: what reproduces the clip.
    """

    def __init__(
        self,
        request: Request,
        *,
        tracks: Mapping[str, Track],
        output_stages: Sequence[str],
        renderer: Renderer,
        prompt: Tensor | None = None,
        prompt_tail: int = 0,
        model: str | None = None,
        settings: Mapping[str, Any],
    ) -> None:
        self.tracks, self.settings = tracks, settings
        self._request = request
        self._output = [tracks[name] for name in output_stages]
        self._stream = renderer.stream()
        self._renderer = renderer
        self._prompt = prompt
        self._model = model
        self._mastering = Mastering(
            renderer.sample_rate,
            num_channels=renderer.num_channels,
            prompt=prompt,
            prompt_tail=prompt_tail,
            raw=request.raw,
        )
        self._pushed = 0
        self._to_render = prompt_tail + request.num_samples
        self._samples_left = request.num_samples
        self._ended = False

    @property
    def done(self) -> bool:
        """Whether all values are decided."""
        return all(track.done for track in self._output)

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if self.done:
            return 1.0
        tracks = self.tracks.values()
        done = sum(x.num_done + x.in_work for x in tracks)
        return done / max(1, sum(x.num_frames for x in tracks))

    def sound(self) -> Tensor:
        """The samples [C, N >= 0] that became final since the last call."""
        if self._ended:
            return torch.zeros(self._renderer.num_channels, 0)
        if self._request.loop:
            return self._loop()
        ready = min(track.num_done for track in self._output)
        samples = self._stream.push(self._values(self._pushed, ready))
        self._pushed = ready
        if self.done:
            self._ended = True
            samples = torch.cat([samples, self._stream.finish()], dim=1)
        return self._new(samples)

    def _loop(self) -> Tensor:
        """All samples [C, N] of a finished loop, else none."""
        if not self.done:
            return torch.zeros(self._renderer.num_channels, 0)
        self._ended = True
        self._pushed = self._output[0].num_done
        request = self._request
        return render_loop(
            self._values(0, self._pushed),
            self._renderer,
            num_samples=request.num_samples,
            raw=request.raw,
        )

    def clip(self, sound: Sequence[Tensor]) -> Clip:
        """The finished clip, from everything that `sound` returned."""
        samples = torch.cat(list(sound), dim=1)
        if self._prompt is not None:
            samples = torch.cat([self._prompt, samples], dim=1)
        is_tokens = self._renderer.signal.kind == "tokens"
        return Clip(
            samples=samples,
            sample_rate=self._renderer.sample_rate,
            tokens=self._values(0, self._pushed).cpu() if is_tokens else None,
            stage_values={
                name: track.values[:, : track.num_done].cpu() for name, track in self.tracks.items()
            },
            seed=self._request.seed,
            prompt=None if self._request.prompt is None else str(self._request.prompt),
            model=self._model,
            settings=self.settings,
        )

    def _values(self, start: int, stop: int) -> Tensor:
        return torch.cat([track.values[:, start:stop] for track in self._output])

    def _new(self, samples: Tensor) -> Tensor:
        samples = samples.cpu().float()[:, : self._to_render]
        self._to_render -= samples.shape[1]
        samples = self._mastering.push(samples)
        if self._ended:
            samples = torch.cat([samples, self._mastering.finish()], dim=1)
        if self._ended:  # a clip that a stage ended early is padded with silence
            missing = self._samples_left - samples.shape[1]
            samples = torch.nn.functional.pad(samples, (0, missing))
        self._samples_left -= samples.shape[1]
        return samples


def _variation(
    stage: Stage,
    request: Request,
    varied: Prompt | None,
    towards: Prompt | None,
    num_frames: int,
) -> Variation | None:
    """The values that a stage with frames varies."""
    if varied is None or request.strength is None or stage.makes.kind == "vector":
        return None
    content = stage.makes.content
    return Variation(
        values=varied.values[content][:, :num_frames],
        strength=request.strength,
        towards=None if towards is None else towards.values[content][:, :num_frames],
        share=EVEN if request.share is None else request.share,
    )


def _values(
    stage: Stage,
    request: Request,
    renderer: Renderer,
    num_samples: int,
    prompt: Prompt | None,
) -> tuple[Tensor, list[float] | None]:
    """The values [K, T], unknown unless given by the prompt or the user, and their start times."""
    T = num_frames(stage, renderer, num_samples)
    if stage.name in request.tokens:
        given = given_values(stage, request.tokens[stage.name], T)
        return given.to(stage.device, copy=True), None
    if prompt is None:
        return unknown_values(stage.makes, T, stage.device), None
    return prompt.around(stage, renderer, first=prompt.samples.shape[1], last=num_samples)
