"""Requests: the user's settings, one value per clip, and their validation.

A setting without effect is an error, too.

Shapes: C channels, N samples, K codebooks, T frames.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import pad

from audio_tokenizers.audio_files import read_audio
from audio_tokenizers.resampling import resample
from lm_audio.clip import Clip
from lm_audio.generation.blend import Blend, as_blend, is_blend
from lm_audio.generation.diffusion_stage import DiffusionStage
from lm_audio.generation.direct_stage import DirectStage
from lm_audio.generation.lm_stage import LMStage
from lm_audio.generation.masked_stage import MaskedStage
from lm_audio.generation.step import guidance_rows
from lm_audio.generation.story import Story, as_story, is_story
from lm_audio.generation.track import Stage
from lm_audio.sampling import AnySampling, Denoising, Sampling, check_seed, random_seed

LONGEST = 24 * 3600  # seconds
PromptLike = str | Story | Sequence[tuple[Any, ...]] | Blend | Mapping[str, float] | None
"""A text; a story: texts and the seconds from which they hold; or a blend: texts and shares."""
AudioLike = str | Path | Clip | tuple[Tensor, int]
"""A path, a clip, or samples [C, N] with their sample rate."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One clip to make.

    Args:
        num_samples: of new audio.
        conditions: by name; negative: used in place of conditions that guidance drops.
        sampling: for all stages that take its kind, or by stage name; the stages' own by default.
        tokens: values [K, T] of stages that are not run, by stage name; or audio, for direct stages
            that can read it.
        raw: keep the model's output level, including peaks beyond full scale.
        overlap: seconds of each window that the next one keeps; the stages' own by default.
        loop: the end of the clip leads to its beginning.
        strength: how much to change given audio, from 0 to 1; None for new audio.
        towards: other audio to mix into a variation; None for none.
        share: of that audio, from 0 to 1; None for a half.
        audio: the name of the file that the clip continues or varies, for its settings.
    """

    num_samples: int
    seed: int
    prompt: str | Story | Blend | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    negative: Mapping[str, Any] = field(default_factory=dict)
    sampling: AnySampling | Mapping[str, AnySampling] | None = None
    tokens: Mapping[str, Tensor | AudioLike] = field(default_factory=dict)
    raw: bool = False
    overlap: float | None = None
    loop: bool = False
    strength: float | None = None
    towards: AudioLike | None = None
    share: float | None = None
    audio: str | None = None

    @property
    def texts(self) -> tuple[str | None, ...]:
        """The prompt, or those of its story or blend."""
        several = isinstance(self.prompt, Story | Blend)
        return self.prompt.texts if several else (self.prompt,)  # type: ignore[union-attr,return-value]


def make_requests(
    prompt: PromptLike | Sequence[PromptLike],
    *,
    duration: float | Sequence[float],
    seed: int | Sequence[int] | None,
    sample_rate: int,
    negative: str | None = None,
    conditions: Mapping[str, Any] | None = None,
    sampling: AnySampling | Mapping[str, AnySampling] | None = None,
    tokens: Mapping[str, Tensor | AudioLike] | None = None,
    raw: bool = False,
    overlap: float | None = None,
    loop: bool = False,
    strength: float | None = None,
    count: int | None = None,
) -> list[Request]:
    """One request per item of the lists among the arguments.

    Args:
        count: the expected length of the lists, if known.
    """
    _check_kinds(prompt, negative=negative, conditions=conditions, sampling=sampling, tokens=tokens)
    if "text" in (conditions or {}):
        raise ValueError("Pass text as the prompt, not in conditions.")
    given = {"prompts": prompt, "durations": duration, "seeds": seed}
    lengths = {name: len(_each(x, 1)) for name, x in given.items() if _is_list(x)}
    if count is not None:
        lengths["audio prompts"] = count
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"All lists need the same length of at least 1, got {found}.")
    B = next(iter(lengths.values()), 1)
    texts, durations, seeds = (_each(x, B) for x in given.values())
    prompts = [
        as_story(text) if is_story(text) else as_blend(text) if is_blend(text) else text
        for text in texts
    ]
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
            overlap=overlap,
            loop=loop,
            strength=strength,
        )
        for text, one_duration, one_seed in zip(prompts, durations, seeds, strict=True)
    ]


def check_request(
    request: Request, stages: Sequence[Stage], made: Sequence[Stage], *, seconds: float
) -> None:
    """Raises ValueError if a request is invalid, before any work is done.

    Args:
        made: the stages that have tracks.
        seconds: of new audio.
    """
    check_seed(request.seed)
    working = [stage for stage in made if stage.name not in request.tokens]
    _check_names(request, stages, made, working)
    _check_sampling_kinds(request, working)
    _check_overlap(request, working)
    _check_denoising(request, working, seconds)
    for stage in working:
        _check_blend(request, stage)
        sampling = followed_sampling(stage, request)
        if sampling is None:
            continue
        if isinstance(sampling, Sampling):
            _check_temperatures(sampling, stage)
        scale = sampling.guidance_scale
        sources = {stage.source.condition} if stage.source is not None else set()
        if isinstance(scale, Mapping) and not set(scale) <= {*stage.conditions, *sources}:
            wrong = ", ".join(sorted(set(scale) - {*stage.conditions, *sources}))
            raise ValueError(
                f"guidance_scale names a condition that the {stage.name} stage does not have: "
                f"{wrong}."
            )
    _check_negative(request, working, seconds)


def sampling_of(stage: Stage, request: Request) -> AnySampling | None:
    given = request.sampling
    if isinstance(given, Mapping):
        return given.get(stage.name, stage.sampling)
    return given if isinstance(given, type(stage.sampling)) else stage.sampling


def followed_sampling(stage: Stage, request: Request) -> AnySampling | None:
    """The settings of a stage, with the guidance of the story's parts."""
    found, story = sampling_of(stage, request), request.prompt
    if not isinstance(found, Denoising) or "text" not in stage.conditions:
        return found
    if not isinstance(story, Story) or all(turn.guidance_scale is None for turn in story.turns):
        return found
    if found.guidance_schedule or isinstance(found.guidance_scale, Mapping):
        raise ValueError(
            "The parts of the story have guidance scales. Remove them, or guidance_schedule and "
            "scales by condition."
        )
    if found.guidance_scale < 1:
        raise ValueError(
            "The guidance scales of a story's parts need a guidance_scale of at least 1 for the "
            f"others, got {found.guidance_scale:g}."
        )
    scale, schedule = story.guidance(found.guidance_scale)
    return replace(found, guidance_scale=scale, guidance_schedule=schedule)


def overlap_frames_of(stage: Stage, request: Request) -> int | None:
    """The frames of `request.overlap` in a stage whose windows overlap; None: the stage's own."""
    if request.overlap is None or not _overlaps(stage):
        return None
    return round(request.overlap * stage.makes.rate)


def _overlaps(stage: Stage) -> bool:
    kinds = LMStage | DiffusionStage | MaskedStage
    return isinstance(stage, kinds) and stage.overlap_frames > 0


def _check_overlap(request: Request, working: Sequence[Stage]) -> None:
    overlap = request.overlap
    if overlap is None:
        return
    found = [stage for stage in working if _overlaps(stage)]
    if not found:
        raise ValueError("The windows of this model do not overlap; leave out overlap.")
    longest = min(float((x.window_frames - 1) / x.makes.rate) for x in found)
    if not isinstance(overlap, int | float) or not 0 <= overlap <= longest:
        raise ValueError(f"overlap must be from 0 to {longest:g} seconds, got {overlap!r}.")


def _check_denoising(request: Request, working: Sequence[Stage], seconds: float) -> None:
    """A variation needs a strength within its range, and a loop fits one window."""
    strength = request.strength
    if strength is not None and not (isinstance(strength, int | float) and 0 < strength <= 1):
        raise ValueError(f"strength must be above 0 and at most 1, got {strength!r}.")
    story = request.prompt if isinstance(request.prompt, Story) else None
    if strength is None and story and any(turn.strength is not None for turn in story.turns):
        raise ValueError("The strength of a story's part has no effect without audio to vary.")
    if (share := request.share) is not None:
        if not (isinstance(share, int | float) and 0 <= share <= 1):
            raise ValueError(f"share must be from 0 to 1, got {share!r}.")
        if request.towards is None:
            raise ValueError("share has no effect without towards. Give other audio or omit it.")
    if request.loop:
        denoise = [stage for stage in working if isinstance(stage, DiffusionStage)]
        longest = min((float(x.window_frames / x.makes.rate) for x in denoise), default=0.0)
        if seconds > longest:
            raise ValueError(
                f"A loop can be at most {longest:g} seconds long with this model, got {seconds:g}."
            )


def given_values(stage: Stage, given: Tensor | AudioLike, num_frames: int) -> Tensor:
    """Values that a user gives for a stage, as they are or read from audio."""
    if isinstance(stage, DirectStage) and not isinstance(given, Tensor):
        if stage.encoder is None:
            raise ValueError(
                f"This model has no encoder of audio for its {stage.name} stage. Pass a tensor "
                f"[{stage.makes.width}, {num_frames}]."
            )
        rate = stage.encoder.sample_rate
        given = stage.encoder.encode(as_audio(given, sample_rate=rate, num_channels=1))
    _check_given(stage, given, num_frames)
    assert isinstance(given, Tensor)
    return given


def _check_given(stage: Stage, values: object, num_frames: int) -> None:
    """Raises ValueError unless given values match a stage's output signal for this many frames."""
    signal = stage.makes
    dtype = str(signal.dtype).removeprefix("torch.")
    if not isinstance(values, Tensor):
        raise ValueError(
            f"Expected a tensor [{signal.width}, T], {dtype}, as {signal.kind} of the {stage.name} "
            f"stage, got {type(values).__name__}."
        )
    # Deduplicated tokens have no fixed duration.
    fits = values.shape[-1:] == (num_frames,) if not stage.deduplicated else values.numel() > 0
    is_matrix = values.ndim == 2 and len(values) == signal.width
    if not (fits and is_matrix and values.dtype == signal.dtype):
        T = f"{num_frames}], {dtype}" + ", for this duration" * (signal.kind != "vector")
        T = T if not stage.deduplicated else f"T], {dtype}, not empty"
        raise ValueError(
            f"The {stage.name} stage needs {signal.kind} [{signal.width}, {T}, got "
            f"{list(values.shape)}, {values.dtype}."
        )
    if signal.num_tokens is None:
        if not values.isfinite().all():
            raise ValueError(f"The values for the {stage.name} stage contain NaN or infinity.")
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= signal.num_tokens:
        raise ValueError(
            f"Tokens for the {stage.name} stage must be between 0 and {signal.num_tokens - 1}, got "
            f"{low} to {high}."
        )
    if stage.deduplicated and (values[:, 1:] == values[:, :-1]).any():
        raise ValueError(
            f"Tokens for the {stage.name} stage must not repeat consecutively. Deduplicate them."
        )


def as_audio(audio: AudioLike, *, sample_rate: int, num_channels: int) -> Tensor:
    """Samples [C, N] of any audio, converted to this rate and number of channels."""
    if isinstance(audio, str | Path):
        return read_audio(audio, sample_rate=sample_rate, num_channels=num_channels).samples
    samples, rate = samples_of(audio)
    samples = resample(samples, rate, sample_rate)
    if len(samples) == num_channels:
        return samples
    if num_channels > 1 and len(samples) > 1:
        raise ValueError(f"Audio must have 1 or {num_channels} channels, got {len(samples)}.")
    return samples.mean(dim=0, keepdim=True).expand(num_channels, -1).contiguous()


def samples_of(audio: Clip | tuple[Tensor, int]) -> tuple[Tensor, int]:
    """Samples [C, N] of audio that is not a path, and their rate, as they are."""
    if not isinstance(audio, Clip) and not _is_samples(audio):
        raise ValueError(
            "Audio must be a path, a Clip, or samples [C, N] with their sample rate, got "
            f"{type(audio).__name__}."
        )
    samples, rate = (audio.samples, audio.sample_rate) if isinstance(audio, Clip) else audio
    _check_samples(samples, rate)
    return samples.detach().cpu().float(), rate


def as_long(audio: AudioLike, like: Tensor, sample_rate: int) -> Tensor:
    """Samples of any audio, cut or padded with silence to the shape of others [C, N]."""
    samples = as_audio(audio, sample_rate=sample_rate, num_channels=len(like))
    return pad(samples, (0, like.shape[1] - samples.shape[1]))


def name_of(audio: AudioLike) -> str | None:
    """The path of audio that was given as one."""
    return str(audio) if isinstance(audio, str | Path) else None


def as_list(audio: AudioLike | Sequence[AudioLike]) -> list[AudioLike]:
    """A single item as a list of one; lists unchanged."""
    return list(audio) if _is_list(audio) else [audio]  # type: ignore[arg-type, list-item]


def check_single(**given: object) -> None:
    """Raises ValueError if any of these is a list, for methods that make one clip."""
    for name, value in given.items():
        if _is_list(value):
            raise ValueError(f"This method makes one clip, so {name} must not be a list.")


def is_batch(*values: object) -> bool:
    """Whether any argument is a list, so that the result is one, too."""
    return any(_is_list(value) for value in values)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple) and not _is_samples(value) and not is_story(value)


def _is_samples(value: object) -> bool:
    """Whether a value is a pair of samples and sample rate."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], Tensor | np.ndarray)
        and not isinstance(value[1], list | tuple | Tensor | np.ndarray)
    )


def _check_samples(samples: object, rate: object) -> None:
    if not isinstance(samples, Tensor) or not samples.is_floating_point():
        found = samples.dtype if isinstance(samples, Tensor) else type(samples).__name__
        raise ValueError(f"Samples must be a float tensor within -1..1, got {found}.")
    if samples.ndim != 2 or not samples.numel():
        raise ValueError(f"Expected samples [C, N] with N >= 1, got {list(samples.shape)}.")
    if not samples.isfinite().all():
        raise ValueError("Samples contain NaN or infinity. Expected numbers within -1..1.")
    if not isinstance(rate, int) or rate < 1:
        raise ValueError(f"The sample rate must be a positive integer, got {rate!r}.")


def _check_kinds(prompt: object, *, negative: object, sampling: object, **mappings: object) -> None:
    for text in (*_each(prompt, 1), negative):
        several = text is not negative and (is_story(text) or is_blend(text))
        if not isinstance(text, str | None) and not several:
            raise ValueError(f"A text prompt must be a string, got {text!r}.")
    for name, given in mappings.items():
        if not isinstance(given, Mapping | None):
            raise ValueError(f"{name} must be a dict by name, got {type(given).__name__}.")
    for one in sampling.values() if isinstance(sampling, Mapping) else [sampling or Sampling()]:
        if not isinstance(one, AnySampling):
            raise ValueError(
                "sampling must be a Sampling, Unmasking or Denoising, such as "
                f"Sampling(temperature=0.5), or a dict of them by stage name, got {one!r}."
            )


def _each(value: object, count: int) -> list[Any]:
    return list(value) if _is_list(value) else [value] * count  # type: ignore[call-overload]


def _num_samples(duration: float, sample_rate: int) -> int:
    number = isinstance(duration, int | float) and math.isfinite(duration)
    if not number or not 1 <= round(duration * sample_rate) <= LONGEST * sample_rate:
        raise ValueError(
            f"duration must be above 0 and at most {LONGEST} seconds, got {duration!r}."
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
            raise ValueError(f"Unknown stage '{name}'. Choose from: {', '.join(names)}.")
    known = {name for stage in stages for name in stage.conditions}
    for name in (*request.conditions, *request.negative):
        if name not in known:
            takes = f"It accepts: {', '.join(sorted(known))}" if known else "Remove it"
            raise ValueError(f"This model has no condition {name!r}. {takes}.")
        if not any(name in stage.conditions for stage in working):
            raise ValueError(
                f"{name} has no effect, because the given tokens replace every stage that uses it. "
                "Remove it, or some of the tokens."
            )
    unused = [name for name in by_stage if name not in {stage.name for stage in working}]
    unused += [name for name in request.tokens if name not in {stage.name for stage in made}]
    if unused:
        raise ValueError(
            f"The {unused[0]} stage is not run, because the tokens of others are given. Remove "
            "its settings."
        )


def _check_blend(request: Request, stage: Stage) -> None:
    """Only stages that make continuous values have something between two prompts."""
    blends = isinstance(request.prompt, Blend) and "text" in stage.conditions
    if blends and not isinstance(stage, DiffusionStage | DirectStage):
        raise ValueError(
            f"The {stage.name} stage follows one prompt at a time. Models of diffusion alone blend "
            "prompts."
        )
    settled = isinstance(request.prompt, Story) and request.prompt.has_settings
    if (
        settled
        and "text" in stage.conditions
        and not isinstance(stage, DiffusionStage | DirectStage)
    ):
        raise ValueError(
            f"The {stage.name} stage changes its prompt at once. Only models of diffusion "
            "follow the settings of a story's parts."
        )


def _check_sampling_kinds(request: Request, working: Sequence[Stage]) -> None:
    """Each kind of stage takes its own kind of settings."""
    given = request.sampling
    if isinstance(given, Mapping):
        for stage in working:
            one = given.get(stage.name, stage.sampling)
            if stage.sampling is None and one is not None:
                raise ValueError(f"The {stage.name} stage has no sampling settings. Remove them.")
            if not isinstance(one, type(stage.sampling)):
                takes = type(stage.sampling).__name__
                raise ValueError(
                    f"The {stage.name} stage takes {_a(takes)}, got {_a(type(one).__name__)}."
                )
    elif given is not None and not any(isinstance(given, type(x.sampling)) for x in working):
        samplings = [stage.sampling for stage in working if stage.sampling is not None]
        takes = " or ".join(dict.fromkeys(type(one).__name__ for one in samplings)) or "no settings"
        got = type(given).__name__
        raise ValueError(f"No stage of this model takes {_a(got)}; pass {_a(takes)}.")


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def _check_temperatures(sampling: Sampling, stage: Stage) -> None:
    """There must be one temperature, or one per codebook."""
    temperature, width = sampling.temperature, stage.makes.width
    if isinstance(temperature, tuple) and len(temperature) != width:
        raise ValueError(
            f"Expected one temperature for the {stage.name} stage, or {width}, one per codebook, "
            f"got {len(temperature)}."
        )


def _check_negative(request: Request, working: Sequence[Stage], seconds: float) -> None:
    """A negative prompt replaces a condition that guidance drops, so guidance must drop it."""
    named = request.conditions.keys() | request.negative.keys()
    dropped: set[str] = set()
    for stage in working:
        sampling = followed_sampling(stage, request)
        if sampling is None:
            continue
        bends = [min(time, seconds) for time, _ in sampling.guidance_schedule]
        given = named & set(stage.conditions)
        for names, _ in guidance_rows(sampling, given, [0.0, *bends, seconds]):  # linear between
            dropped |= names
    if unused := request.negative.keys() - dropped:
        raise ValueError(
            f"A negative prompt has no effect without guidance: the guidance scale of "
            f"{min(unused)} is 1 or missing. Use a higher one."
        )
