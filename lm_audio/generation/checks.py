"""What a request may ask of the stages that it needs; each mistake is one sentence.

Whatever would have no effect is a mistake, too.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lm_audio.generation.request import Request
from lm_audio.generation.step import guidance_rows
from lm_audio.generation.track import AnyStage
from lm_audio.sampling import Sampling, check_seed


def check_request(
    request: Request, stages: Sequence[AnyStage], made: Sequence[AnyStage], *, seconds: float
) -> None:
    """Raises ValueError for what is wrong, before any work is done.

    Args:
        made: the stages that there are tracks of.
        seconds: of new sound.
    """
    check_seed(request.seed)
    working = [stage for stage in made if stage.name not in request.tokens]
    _check_names(request, stages, made, working)
    for stage in working:
        sampling = sampling_of(stage, request)
        _check_temperatures(sampling, stage)
        scale = sampling.guidance_scale
        sources = {stage.source.condition} if stage.source is not None else set()
        if isinstance(scale, Mapping) and not set(scale) <= {*stage.conditions, *sources}:
            wrong = ", ".join(sorted(set(scale) - {*stage.conditions, *sources}))
            raise ValueError(f"The {stage.name} stage has no condition {wrong} to guide by.")
    _check_negative(request, working, seconds)


def sampling_of(stage: AnyStage, request: Request) -> Sampling:
    if isinstance(request.sampling, Mapping):
        return request.sampling.get(stage.name, stage.sampling)
    return request.sampling or stage.sampling


def check_given(stage: AnyStage, values: Tensor, num_frames: int) -> None:
    """Values that stand for a stage's own must be what it makes, for this many frames."""
    signal = stage.makes
    dtype = str(signal.dtype).removeprefix("torch.")
    if not isinstance(values, Tensor):
        raise ValueError(
            f"Got a {type(values).__name__} as {signal.kind} of the {stage.name} stage; give a "
            f"tensor [{signal.width}, T], {dtype}."
        )
    # Deduplicated tokens stand for no fixed time.
    fits = values.shape[-1:] == (num_frames,) if stage.repeats else values.numel() > 0
    is_matrix = values.ndim == 2 and len(values) == signal.width
    if not (fits and is_matrix and values.dtype == signal.dtype):
        T = f"{num_frames}], {dtype}, for this duration"
        T = T if stage.repeats else f"T], {dtype}, not empty"
        raise ValueError(
            f"Got {signal.kind} {list(values.shape)} of type {values.dtype} for the {stage.name} "
            f"stage; give [{signal.width}, {T}."
        )
    if signal.num_tokens is None:
        if not values.isfinite().all():
            raise ValueError(f"Got latents that are not finite for the {stage.name} stage.")
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= signal.num_tokens:
        raise ValueError(
            f"Got tokens from {low} to {high} for the {stage.name} stage; give some from 0 to "
            f"{signal.num_tokens - 1}."
        )
    if not stage.repeats and (values[:, 1:] == values[:, :-1]).any():
        raise ValueError(
            f"Got tokens that follow themselves for the {stage.name} stage; remove all repeats."
        )


def _check_names(
    request: Request,
    stages: Sequence[AnyStage],
    made: Sequence[AnyStage],
    working: Sequence[AnyStage],
) -> None:
    by_stage = request.sampling if isinstance(request.sampling, Mapping) else {}
    names = [stage.name for stage in stages]
    for name in (*by_stage, *request.tokens):
        if name not in names:
            raise ValueError(f"There is no stage '{name}'. Choose from: {', '.join(names)}.")
    known = {name for stage in stages for name in stage.conditions}
    for name in (*request.conditions, *request.negative):
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


def _check_temperatures(sampling: Sampling, stage: AnyStage) -> None:
    """There must be one temperature, or one for each codebook."""
    temperature, width = sampling.temperature, stage.makes.width
    if isinstance(temperature, tuple) and len(temperature) != width:
        raise ValueError(
            f"Got {len(temperature)} temperatures for the {stage.name} stage; give one, or "
            f"{width}, one for each codebook."
        )


def _check_negative(request: Request, working: Sequence[AnyStage], seconds: float) -> None:
    """A negative prompt takes the place of what guidance drops, if it drops that at all."""
    asked = request.conditions.keys() | request.negative.keys()
    dropped: set[str] = set()
    for stage in working:
        sampling = sampling_of(stage, request)
        bends = [min(time, seconds) for time, _ in sampling.guidance_schedule]
        given = asked & set(stage.conditions)
        for names, _ in guidance_rows(sampling, given, [0.0, *bends, seconds]):  # linear between
            dropped |= names
    if unused := request.negative.keys() - dropped:
        raise ValueError(
            f"A negative prompt has no effect where the guidance scale of {min(unused)} is 1, or "
            "there is none; use a higher scale."
        )
