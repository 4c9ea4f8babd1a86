"""What each stage has to make for a request.

Shapes: K codebooks, T frames.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from lm_audio.pipeline.prompt import Prompt
from lm_audio.pipeline.request import Request
from lm_audio.renderers.protocol import Renderer
from lm_audio.sampling import Sampling
from lm_audio.stages.run import AnyStage, Run, unknown_tokens


def make_runs(
    request: Request,
    *,
    stages: Sequence[AnyStage],
    renderer: Renderer,
    num_samples: int,
    prompt: Prompt | None = None,
) -> dict[str, Run]:
    """A run for each stage, by its name.

    Args:
        num_samples: the prompt's and the new ones.
    """
    _check(request, stages)
    runs: dict[str, Run] = {}
    for stage in stages:
        tokens, starts = _tokens(stage, request, renderer, num_samples, prompt)
        runs[stage.name] = Run(
            tokens=tokens,
            starts=starts,
            seed=request.seed,
            sampling=_sampling(stage, request),
            values={k: v for k, v in request.values.items() if k in stage.conditions},
            negative={k: v for k, v in request.negative.items() if k in stage.conditions},
            source=None if stage.source is None else runs[stage.source.stage],
            open_end=stage.may_end,
        )
        stage.check(runs[stage.name])
    return runs


def num_frames(stage: AnyStage, renderer: Renderer, num_samples: int) -> int:
    """How many frames of a stage so many samples need."""
    if stage.prompt == "acoustic":
        return renderer.num_frames(num_samples)
    return math.ceil(Fraction(num_samples, renderer.sample_rate) * stage.frame_rate)


def _tokens(
    stage: AnyStage,
    request: Request,
    renderer: Renderer,
    num_samples: int,
    prompt: Prompt | None,
) -> tuple[Tensor, list[float] | None]:
    """The run's tokens [K, T], -1 where neither prompt nor user gives one, and their starts."""
    T = num_frames(stage, renderer, num_samples)
    if stage.name in request.tokens:
        return _given(stage, request.tokens[stage.name], T), None
    if prompt is None:
        return unknown_tokens(stage.num_codebooks, T, stage.device), None
    return prompt.around(stage, renderer, first=prompt.samples.shape[1], last=num_samples)


def _given(stage: AnyStage, tokens: Tensor, num_frames: int) -> Tensor:
    T = num_frames if stage.repeats else tokens.shape[-1]  # else they stand for no fixed time
    shape = [stage.num_codebooks, T]
    if list(tokens.shape) != shape or tokens.dtype != torch.int64 or int(tokens.min()) < 0:
        raise ValueError(
            f"Got tokens {list(tokens.shape)} of type {tokens.dtype} for the {stage.name} stage; "
            f"give {shape}, int64, for this duration."
        )
    return tokens.to(stage.device, copy=True)


def _sampling(stage: AnyStage, request: Request) -> Sampling:
    if isinstance(request.sampling, Mapping):
        return request.sampling.get(stage.name, stage.sampling)
    return request.sampling or stage.sampling


def _check(request: Request, stages: Sequence[AnyStage]) -> None:
    """Whatever would have no effect is a mistake."""
    known = {name for stage in stages for name in stage.conditions}
    for name in (*request.values, *request.negative):
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
            raise ValueError(f"This model takes no {name}; {takes}.")
    names = [stage.name for stage in stages]
    by_stage = request.sampling if isinstance(request.sampling, Mapping) else {}
    for name in (*by_stage, *request.tokens):
        if name not in names:
            raise ValueError(f"There is no stage '{name}'. Choose from: {', '.join(names)}.")
    for stage in stages:
        scale = _sampling(stage, request).guidance_scale
        if request.negative and scale == 1.0 and set(request.negative) & set(stage.conditions):
            raise ValueError(
                f"A negative prompt has no effect at a guidance scale of 1 ({stage.name} stage); "
                "use a higher scale."
            )
        sources = {stage.source.condition} if stage.source is not None else set()
        if isinstance(scale, Mapping) and not set(scale) <= {*stage.conditions, *sources}:
            wrong = ", ".join(sorted(set(scale) - {*stage.conditions, *sources}))
            raise ValueError(f"The {stage.name} stage has no condition {wrong} to guide by.")
