"""What each stage has to make for a request.

Shapes: K codebooks, T frames.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from lm_audio.generation.guidance import branches
from lm_audio.generation.prompt import Prompt
from lm_audio.generation.request import Request
from lm_audio.generation.track import AnyStage, Run, unknown_tokens
from lm_audio.renderers.protocol import Renderer
from lm_audio.sampling import Sampling


def make_runs(
    request: Request,
    *,
    stages: Sequence[AnyStage],
    renderer: Renderer,
    output_stages: Collection[str] | None = None,
    num_samples: int,
    prompt: Prompt | None = None,
) -> dict[str, Run]:
    """A run for each stage that the rendered ones need, by its name.

    Args:
        output_stages: the last stage by default.
        num_samples: the prompt's and the new ones.
    """
    made = needed(stages, output_stages=output_stages or [stages[-1].name], given=request.tokens)
    _check(request, stages, made)
    working = [stage for stage in made if stage.name not in request.tokens]
    _check_negative(request, working, request.num_samples / renderer.sample_rate)
    runs: dict[str, Run] = {}
    for stage in made:
        tokens, starts = _tokens(stage, request, renderer, num_samples, prompt)
        runs[stage.name] = Run(
            tokens=tokens,
            starts=starts,
            seed=request.seed,
            sampling=_sampling(stage, request),
            values={k: v for k, v in request.values.items() if k in stage.conditions},
            negative={k: v for k, v in request.negative.items() if k in stage.conditions},
            source=None if stage.source is None else runs.get(stage.source.stage),
            open_end=stage.may_end,
        )
        stage.check(runs[stage.name])
    return runs


def needed(
    stages: Sequence[AnyStage], *, output_stages: Collection[str], given: Collection[str]
) -> list[AnyStage]:
    """The rendered stages and those before them, up to the ones whose tokens are given."""
    names = set(output_stages)
    for stage in reversed(stages):
        if stage.name in names and stage.name not in given and stage.source is not None:
            names.add(stage.source.stage)
    return [stage for stage in stages if stage.name in names]


def num_frames(stage: AnyStage, renderer: Renderer, num_samples: int) -> int:
    """How many frames of a stage so many samples need."""
    if stage.token_kind == "acoustic":
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
    if not isinstance(tokens, Tensor):
        raise ValueError(
            f"Got a {type(tokens).__name__} as tokens of the {stage.name} stage; give a tensor "
            f"[{stage.num_codebooks}, T], int64."
        )
    # De-duplicated tokens stand for no fixed time.
    fits = tokens.shape[-1:] == (num_frames,) if stage.repeats else tokens.numel() > 0
    is_matrix = tokens.ndim == 2 and len(tokens) == stage.num_codebooks
    if not (fits and is_matrix and tokens.dtype == torch.int64):
        T = f"{num_frames}], int64, for this duration" if stage.repeats else "T], int64, not empty"
        raise ValueError(
            f"Got tokens {list(tokens.shape)} of type {tokens.dtype} for the {stage.name} stage; "
            f"give [{stage.num_codebooks}, {T}."
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= stage.num_tokens:
        raise ValueError(
            f"Got tokens from {low} to {high} for the {stage.name} stage; give some from 0 to "
            f"{stage.num_tokens - 1}."
        )
    if not stage.repeats and (tokens[:, 1:] == tokens[:, :-1]).any():
        raise ValueError(
            f"Got tokens that follow themselves for the {stage.name} stage; remove all repeats."
        )
    return tokens.to(stage.device, copy=True)


def _sampling(stage: AnyStage, request: Request) -> Sampling:
    if isinstance(request.sampling, Mapping):
        return request.sampling.get(stage.name, stage.sampling)
    return request.sampling or stage.sampling


def _check(request: Request, stages: Sequence[AnyStage], made: Sequence[AnyStage]) -> None:
    """Names must be known, and whatever would have no effect is a mistake.

    Args:
        made: the stages that there are runs of.
    """
    by_stage = request.sampling if isinstance(request.sampling, Mapping) else {}
    names = [stage.name for stage in stages]
    for name in (*by_stage, *request.tokens):
        if name not in names:
            raise ValueError(f"There is no stage '{name}'. Choose from: {', '.join(names)}.")
    working = [stage for stage in made if stage.name not in request.tokens]
    known = {name for stage in stages for name in stage.conditions}
    for name in (*request.values, *request.negative):
        if name not in known:
            takes = f"it takes {', '.join(sorted(known))}" if known else "leave it out"
            raise ValueError(f"This model takes no {name}; {takes}.")
        if not any(name in stage.conditions for stage in working):
            raise ValueError(
                f"The {name} has no effect, since no stage that takes it is run; leave it out, or "
                "some of the tokens."
            )
    unused = [name for name in by_stage if name not in {stage.name for stage in working}]
    unused += [name for name in request.tokens if name not in {stage.name for stage in made}]
    if unused:
        raise ValueError(
            f"What is given for the {unused[0]} stage has no effect, since the tokens of others "
            "are given; leave it out."
        )
    for stage in working:
        scale = _sampling(stage, request).guidance_scale
        sources = {stage.source.condition} if stage.source is not None else set()
        if isinstance(scale, Mapping) and not set(scale) <= {*stage.conditions, *sources}:
            wrong = ", ".join(sorted(set(scale) - {*stage.conditions, *sources}))
            raise ValueError(f"The {stage.name} stage has no condition {wrong} to guide by.")


def _check_negative(request: Request, working: Sequence[AnyStage], seconds: float) -> None:
    """A negative prompt takes the place of what guidance drops, if it drops that at all."""
    asked = request.values.keys() | request.negative.keys()
    dropped: set[str] = set()
    for stage in working:
        sampling = _sampling(stage, request)
        bends = [min(time, seconds) for time, _ in sampling.guidance_schedule]
        given = asked & set(stage.conditions)
        for branch in branches(sampling, given, [0.0, *bends, seconds]):  # linear in between
            dropped |= branch.dropped
    if unused := request.negative.keys() - dropped:
        raise ValueError(
            f"A negative prompt has no effect where the guidance scale of {min(unused)} is 1, or "
            "there is none; use a higher scale."
        )
