"""What a user asks a pipeline for, one value per clip, and all that is checked of it.

Whatever would have no effect is a mistake, too; each mistake is one sentence.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.resampling import resample
from lm_audio.clip import Clip
from lm_audio.generation.step import guidance_rows
from lm_audio.generation.track import Stage
from lm_audio.sampling import AnySampling, Sampling, check_seed, random_seed

LONGEST = 24 * 3600  # seconds
AudioLike = str | Path | Clip | tuple[Tensor, int]
"""A file, a clip, or samples [C, N] with their rate."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One clip to make.

    Args:
        num_samples: of new sound.
        conditions: by name; negative: what stands in for those that guidance drops.
        sampling: for the stages that take it, or by the name of the stage; their own by default.
        tokens: values of stages that need not be run, [K, T] by name.
        raw: keep the level that the model made, peaks beyond full scale included.
    """

    num_samples: int
    seed: int
    prompt: str | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    negative: Mapping[str, Any] = field(default_factory=dict)
    sampling: AnySampling | Mapping[str, AnySampling] | None = None
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    raw: bool = False


def make_requests(
    prompt: str | Sequence[str | None] | None,
    *,
    duration: float | Sequence[float],
    seed: int | Sequence[int] | None,
    sample_rate: int,
    negative: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    sampling: AnySampling | Mapping[str, AnySampling] | None = None,
    tokens: Mapping[str, Tensor] | None = None,
    raw: bool = False,
    count: int | None = None,
) -> list[Request]:
    """One request for each of the prompts, durations and seeds, whichever are lists.

    Args:
        count: how many there must be, if that is known.
    """
    _check_kinds(prompt, negative=negative, conditions=conditions, sampling=sampling, tokens=tokens)
    if "text" in (conditions or {}):
        raise ValueError("Got a text among the conditions; give it as the prompt.")
    given = {"prompts": prompt, "durations": duration, "seeds": seed}
    lengths = {name: len(_each(x, 1)) for name, x in given.items() if _is_list(x)}
    if count is not None:
        lengths["audio prompts"] = count
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"Got {found}; give equally many of each, at least one, or a single one.")
    B = next(iter(lengths.values()), 1)
    prompts, durations, seeds = (_each(x, B) for x in given.values())
    return [
        Request(
            num_samples=_num_samples(one_duration, sample_rate),
            seed=random_seed() if one_seed is None else one_seed,
            prompt=text,
            conditions={**({} if text is None else {"text": text}), **(conditions or {})},
            negative={} if negative is None else {"text": negative},
            sampling=sampling,
            tokens=tokens or {},
            raw=raw,
        )
        for text, one_duration, one_seed in zip(prompts, durations, seeds, strict=True)
    ]


def check_request(
    request: Request, stages: Sequence[Stage], made: Sequence[Stage], *, seconds: float
) -> None:
    """Raises ValueError for what is wrong, before any work is done.

    Args:
        made: the stages that there are tracks of.
        seconds: of new sound.
    """
    check_seed(request.seed)
    working = [stage for stage in made if stage.name not in request.tokens]
    _check_names(request, stages, made, working)
    _check_sampling_kinds(request, working)
    for stage in working:
        sampling = sampling_of(stage, request)
        if isinstance(sampling, Sampling):
            _check_temperatures(sampling, stage)
        scale = sampling.guidance_scale
        sources = {stage.source.condition} if stage.source is not None else set()
        if isinstance(scale, Mapping) and not set(scale) <= {*stage.conditions, *sources}:
            wrong = ", ".join(sorted(set(scale) - {*stage.conditions, *sources}))
            raise ValueError(f"The {stage.name} stage has no condition {wrong} to guide by.")
    _check_negative(request, working, seconds)


def sampling_of(stage: Stage, request: Request) -> AnySampling:
    given = request.sampling
    if isinstance(given, Mapping):
        return given.get(stage.name, stage.sampling)
    return given if isinstance(given, type(stage.sampling)) else stage.sampling


def check_given(stage: Stage, values: Tensor, num_frames: int) -> None:
    """Values that stand for a stage's own must be what it makes, for this many frames."""
    signal = stage.makes
    dtype = str(signal.dtype).removeprefix("torch.")
    if not isinstance(values, Tensor):
        raise ValueError(
            f"Got a {type(values).__name__} as {signal.kind} of the {stage.name} stage; give a "
            f"tensor [{signal.width}, T], {dtype}."
        )
    # Deduplicated tokens stand for no fixed time.
    fits = values.shape[-1:] == (num_frames,) if not stage.deduplicated else values.numel() > 0
    is_matrix = values.ndim == 2 and len(values) == signal.width
    if not (fits and is_matrix and values.dtype == signal.dtype):
        T = f"{num_frames}], {dtype}, for this duration"
        T = T if not stage.deduplicated else f"T], {dtype}, not empty"
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
    if stage.deduplicated and (values[:, 1:] == values[:, :-1]).any():
        raise ValueError(
            f"Got tokens that follow themselves for the {stage.name} stage; remove all repeats."
        )


def as_audio(audio: AudioLike, *, sample_rate: int, num_channels: int) -> Tensor:
    """Samples [C, N] of any audio, at this rate and with so many channels."""
    if isinstance(audio, str | Path):
        return read_audio(audio, sample_rate=sample_rate, num_channels=num_channels).samples
    if not isinstance(audio, Clip) and not _is_samples(audio):
        raise ValueError(
            f"Got a {type(audio).__name__} as audio; give a path, a Clip, or samples [C, N] and "
            "their rate."
        )
    samples, rate = (audio.samples, audio.sample_rate) if isinstance(audio, Clip) else audio
    _check_samples(samples, rate)
    samples = resample(samples.detach().cpu().float(), rate, sample_rate)
    if len(samples) == num_channels:
        return samples
    if num_channels > 1 and len(samples) > 1:
        raise ValueError(f"Got {len(samples)} channels; give 1 or {num_channels}.")
    return samples.mean(dim=0, keepdim=True).expand(num_channels, -1).contiguous()


def as_list(audio: AudioLike | Sequence[AudioLike]) -> list[AudioLike]:
    """One or many, as a list."""
    return list(audio) if _is_list(audio) else [audio]  # type: ignore[arg-type, list-item]


def check_single(**given: object) -> None:
    """Raises ValueError if any of these is a list, where one clip is made."""
    for name, value in given.items():
        if _is_list(value):
            raise ValueError(f"Got a list as {name}; this makes one clip, so give a single one.")


def is_batch(*values: object) -> bool:
    """Whether a list was given, so that a list is expected."""
    return any(_is_list(value) for value in values)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and not _is_samples(value)


def _is_samples(value: object) -> bool:
    """Whether these are meant as samples and their rate."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], Tensor | np.ndarray)
        and not isinstance(value[1], list | tuple | Tensor | np.ndarray)
    )


def _check_samples(samples: object, rate: object) -> None:
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        found = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"Got samples of type {found}; give a tensor of floats within -1..1.")
    if samples.ndim != 2 or not samples.numel():
        raise ValueError(f"Got samples of shape {list(samples.shape)}; give [C, N], N at least 1.")
    if not samples.isfinite().all():
        raise ValueError("Got samples that are not finite; give numbers within -1..1.")
    if not isinstance(rate, int) or rate < 1:
        raise ValueError(f"Got a sample rate of {rate!r}; give a whole number, such as 24000.")


def _check_kinds(prompt: object, *, negative: object, sampling: object, **mappings: object) -> None:
    for text in (*_each(prompt, 1), negative):
        if not isinstance(text, str | None):
            raise ValueError(f"Got {text!r} as a text; give a string.")
    for name, given in mappings.items():
        if not isinstance(given, Mapping | None):
            raise ValueError(f"Got a {type(given).__name__} as {name}; give a dict by name.")
    for one in sampling.values() if isinstance(sampling, Mapping) else [sampling or Sampling()]:
        if not isinstance(one, AnySampling):
            raise ValueError(
                f"Got {one!r} as sampling; give a Sampling or Denoising, or a dict of them by "
                "stage name."
            )


def _each(value: object, count: int) -> list[Any]:
    return list(value) if _is_list(value) else [value] * count  # type: ignore[call-overload]


def _num_samples(duration: float, sample_rate: int) -> int:
    number = isinstance(duration, int | float) and math.isfinite(duration)
    if not number or not 1 <= round(duration * sample_rate) <= LONGEST * sample_rate:
        raise ValueError(
            f"Got a duration of {duration!r}; give seconds above 0, such as 5.0, and at most a day."
        )
    return round(duration * sample_rate)


def _check_names(
    request: Request,
    stages: Sequence[Stage],
    made: Sequence[Stage],
    working: Sequence[Stage],
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


def _check_sampling_kinds(request: Request, working: Sequence[Stage]) -> None:
    """Stages of tokens take a Sampling, those that denoise a Denoising."""
    given = request.sampling
    if isinstance(given, Mapping):
        for stage in working:
            one = given.get(stage.name, stage.sampling)
            if not isinstance(one, type(stage.sampling)):
                takes = type(stage.sampling).__name__
                raise ValueError(
                    f"Got a {type(one).__name__} for the {stage.name} stage; give a {takes}."
                )
    elif given is not None and not any(isinstance(given, type(x.sampling)) for x in working):
        takes = "Denoising" if isinstance(given, Sampling) else "Sampling"
        raise ValueError(
            f"Got a {type(given).__name__}, which no stage of this model takes; give a {takes}."
        )


def _check_temperatures(sampling: Sampling, stage: Stage) -> None:
    """There must be one temperature, or one for each codebook."""
    temperature, width = sampling.temperature, stage.makes.width
    if isinstance(temperature, tuple) and len(temperature) != width:
        raise ValueError(
            f"Got {len(temperature)} temperatures for the {stage.name} stage; give one, or "
            f"{width}, one for each codebook."
        )


def _check_negative(request: Request, working: Sequence[Stage], seconds: float) -> None:
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
