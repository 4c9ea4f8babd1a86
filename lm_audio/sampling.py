"""Sampling: picks tokens from logits and sets how latents are denoised, reproducibly.

Guidance, the decode loop and the solvers are elsewhere. A token depends, bit for bit, on its own
row only: an item gets the same tokens alone and in any batch.

Shapes: I items, J streams, V vocabulary, W recent tokens.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

_UNIT_BITS = 40  # the likeliest token weighs 2 ** 40; 2 ** 20 of them fit an int64
_UNIFORM_BITS = 24  # precision of a float32 in [0, 1)
MOST = 10**6  # tokens or frames, so that no tensor of them can overflow
_BLOCK = 256  # steps per block of random numbers
Solver = Literal[
    "ddim", "dpm++2m", "dpm++2m-sde", "dpm++2s-ancestral", "ipndm", "lms", "euler", "heun",
    "ping-pong",
]  # fmt: skip
SolverAlias = Literal[
    "v-ddim", "v-ddpm", "v-iplms", "k-euler", "k-euler-ancestral", "k-heun", "k-lms",
    "k-dpmpp-2m", "k-dpmpp-2m-sde", "k-dpmpp-2s-ancestral",
]  # fmt: skip
"""Names in other programs, for the same formula."""
_ALIASES: dict[str, tuple[Solver, float | None]] = {  # with the eta that a name implies
    "v-ddim": ("ddim", None),
    "v-ddpm": ("ddim", 1.0),
    "v-iplms": ("ipndm", None),
    "k-euler": ("euler", None),
    "k-euler-ancestral": ("ddim", 1.0),
    "k-heun": ("heun", None),
    "k-lms": ("lms", None),
    "k-dpmpp-2m": ("dpm++2m", None),
    "k-dpmpp-2m-sde": ("dpm++2m-sde", None),
    "k-dpmpp-2s-ancestral": ("dpm++2s-ancestral", None),
}
_NEAREST: dict[str, Solver] = {  # to solvers of other programs that we lack
    "v-prk": "heun",
    "v-plms": "ipndm",
    "k-dpm-2": "heun",
    "k-dpm-2-ancestral": "dpm++2s-ancestral",
    "k-dpm-fast": "dpm++2m",
    "k-dpm-adaptive": "dpm++2m",
    "k-dpmpp-sde": "dpm++2m-sde",
    "k-dpmpp-3m-sde": "dpm++2m-sde",
}
MaskSchedule = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings.

    Args:
        temperature: one value, or one per codebook; 0 always picks the likeliest token.
        top_k: keep the k likeliest tokens (0 disables).
        top_p: then keep the smallest set of tokens with total probability p (0 disables).
        min_p: then drop tokens less likely than min_p times the likeliest one (0 disables).
        guidance_scale: one value for all prompts, or one per condition, in order.
        guidance_schedule: (seconds, factor) points, linear between, constant outside; factor 1 is
            the full scale, 0 is no guidance.
        repetition_penalty: divides positive and multiplies negative logits of tokens that occurred
            in the same codebook within the last `repetition_window` frames.
    """

    temperature: float | tuple[float, ...] = 1.0
    top_k: int = 250
    top_p: float = 0.0
    min_p: float = 0.0
    guidance_scale: float | Mapping[str, float] = 3.0
    guidance_schedule: tuple[tuple[float, float], ...] = ()
    repetition_penalty: float = 1.0
    repetition_window: int = 50

    def __post_init__(self) -> None:
        _freeze(self)
        temperatures = (
            self.temperature if isinstance(self.temperature, tuple) else [self.temperature]
        )
        for temperature in temperatures:
            _check_number("temperature", temperature)
        _check_whole("top_k", self.top_k, least=0, most=MOST)
        _check_number("top_p", self.top_p, most=1.0)
        _check_number("min_p", self.min_p, most=1.0)
        _check_guidance(self)
        _check_number("repetition_penalty", self.repetition_penalty, least=0.01)
        _check_whole("repetition_window", self.repetition_window, least=1, most=MOST)

    def scale_at(self, scale: float, seconds: float) -> float:
        """The scheduled guidance scale at a time in seconds."""
        return _scheduled(scale, self.guidance_schedule, seconds)


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Settings of stages that denoise latents.

    Args:
        steps: number of steps from noise to signal; more steps are slower and more accurate.
        solver: ddim, dpm++2m, dpm++2m-sde (adds new noise in each step), dpm++2s-ancestral (that,
            too) and heun (two network passes per step), ipndm, lms, euler, or ping-pong, for models
            distilled to few steps. A `SolverAlias` becomes one of these.
        guidance_scale, guidance_schedule: as for `Sampling`.
        guidance_interval: the part of the run with guidance, from 0 (noise) to 1 (signal); steps
            outside it are cheaper.
        guidance_rescale: how far to bring the spread of the guided output back to that without
            guidance, from 0 to 1; against oversaturation at high scales.
        eta: share of new noise in a ddim step, from 0 (none) to 1 (ancestral sampling).
    """

    steps: int = 20
    solver: Solver = "dpm++2m"
    guidance_scale: float | Mapping[str, float] = 3.5
    guidance_schedule: tuple[tuple[float, float], ...] = ()
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = 0.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        _freeze(self)
        _check_whole("steps", self.steps, least=1, most=MOST)
        if self.solver in _ALIASES:
            solver, eta = _ALIASES[self.solver]
            object.__setattr__(self, "solver", solver)
            object.__setattr__(self, "eta", self.eta if eta is None else eta)
        if self.solver not in get_args(Solver):
            nearest = _NEAREST.get(self.solver)
            hint = f" The nearest is {nearest}." if nearest else ""
            choices = ", ".join(get_args(Solver))
            raise ValueError(f"Unknown solver {self.solver!r}.{hint} Choose one of: {choices}.")
        _check_guidance(self)
        _check_interval(self.guidance_interval)
        _check_number("guidance_rescale", self.guidance_rescale, most=1.0)
        _check_number("eta", self.eta, most=1.0)
        if self.eta and self.solver != "ddim":
            raise ValueError(
                f"eta has no effect with the {self.solver} solver. Use solver='ddim' or omit it."
            )

    def scale_at(self, scale: float, seconds: float) -> float:
        """The scheduled guidance scale at a time in seconds."""
        return _scheduled(scale, self.guidance_schedule, seconds)


@dataclass(frozen=True, kw_only=True)
class Unmasking:
    """Settings of stages that predict masked tokens in parallel.

    Codebooks are decided one after the other. Each step predicts all masked tokens of a codebook,
    keeps the most confident ones and masks the others again.

    Args:
        steps: network passes per codebook: one number for all of them, or one for each.
        schedule: the share of tokens that stay masked: cosine (decides few at first) or linear.
        temperature: at the start; 0 always picks the likeliest token.
        anneal_temperature: lower the temperature linearly to almost 0.
        top_k, top_p, min_p: as for `Sampling`.
        guidance_scale, guidance_schedule: as for `Sampling`.
        final_guidance_scale: the guidance scale approaches it as fewer tokens are masked; None
            keeps `guidance_scale`.
        noise: scale of random noise on the confidence; it falls linearly to 0.
    """

    steps: int | tuple[int, ...] = 10
    schedule: MaskSchedule = "cosine"
    temperature: float = 1.0
    anneal_temperature: bool = True
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    guidance_scale: float | Mapping[str, float] = 3.0
    final_guidance_scale: float | None = None
    guidance_schedule: tuple[tuple[float, float], ...] = ()
    noise: float = 0.0

    def __post_init__(self) -> None:
        _freeze(self)
        for steps in self.steps if isinstance(self.steps, tuple) else [self.steps]:
            _check_whole("steps", steps, least=1, most=MOST)
        if self.schedule not in get_args(MaskSchedule):
            choices = ", ".join(get_args(MaskSchedule))
            raise ValueError(f"Unknown schedule {self.schedule!r}. Choose one of: {choices}.")
        _check_number("temperature", self.temperature)
        _check_whole("top_k", self.top_k, least=0, most=MOST)
        _check_number("top_p", self.top_p, most=1.0)
        _check_number("min_p", self.min_p, most=1.0)
        _check_guidance(self)
        if self.final_guidance_scale is not None:
            _check_number("final_guidance_scale", self.final_guidance_scale)
        _check_number("noise", self.noise)

    def scale_at(self, scale: float, seconds: float) -> float:
        """The scheduled guidance scale at a time in seconds."""
        return _scheduled(scale, self.guidance_schedule, seconds)


AnySampling = Sampling | Denoising | Unmasking


def adjusted(
    samplings: Mapping[str, AnySampling | None], options: Mapping[str, Any]
) -> dict[str, AnySampling]:
    """The settings of each stage, by name, with these options where it has them.

    Raises ValueError for an option that no stage has.
    """
    settings = {stage: sampling for stage, sampling in samplings.items() if sampling is not None}
    for name in options:
        if not any(name in names_of(sampling) for sampling in settings.values()):
            choices = sorted(
                {name for sampling in settings.values() for name in names_of(sampling)}
            )
            raise ValueError(
                f"This model has no {name} setting. It has: {', '.join(choices) or 'none'}."
            )
    changes = {
        stage: {name: options[name] for name in options.keys() & names_of(sampling)}
        for stage, sampling in settings.items()
    }
    return {
        stage: replace(sampling, **changes[stage])
        for stage, sampling in settings.items()
        if changes[stage]
    }


def names_of(sampling: AnySampling | None) -> set[str]:
    """The names of the settings."""
    return set() if sampling is None else {one.name for one in fields(sampling)}


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingTensors:
    """The settings of `Sampling` that `choose` reads, [I, J] each; float32, top_k int64."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    penalty: Tensor
    most: int | None  # the largest number of candidate tokens; None: some rows allow all


def sampling_tensors(
    samplings: Sequence[Sampling], *, num_codebooks: int, device: torch.device | str = "cpu"
) -> SamplingTensors:
    """The settings of each item and codebook as tensors [I, K]."""
    for sampling in samplings:
        temperature = sampling.temperature
        if isinstance(temperature, tuple) and len(temperature) != num_codebooks:
            raise ValueError(
                f"Expected one temperature, or {num_codebooks}, one per codebook, got "
                f"{len(temperature)}."
            )

    def rows(values: Sequence[object], dtype: torch.dtype = torch.float32) -> Tensor:
        lists = [v if isinstance(v, tuple) else [v] * num_codebooks for v in values]
        return torch.tensor(lists, dtype=dtype, device=device)

    ks = [sampling.top_k for sampling in samplings]
    return SamplingTensors(
        temperature=rows([sampling.temperature for sampling in samplings]),
        top_k=rows(ks, torch.int64),
        top_p=rows([sampling.top_p for sampling in samplings]),
        min_p=rows([sampling.min_p for sampling in samplings]),
        penalty=rows([sampling.repetition_penalty for sampling in samplings]),
        most=max(ks) if ks and all(ks) else None,
    )


def choose(
    logits: Tensor,
    uniforms: Tensor,
    settings: SamplingTensors,
    *,
    allowed: Tensor | None = None,
    recent: Tensor | None = None,
) -> Tensor:
    """One token [I, J] from logits [I, J, V] and one random number each, [I, J] in [0, 1).

    Penalty, temperature, top-k, top-p and min-p apply in this order; ties go to the lowest token.

    Args:
        allowed: [I, J, 2]: the lowest allowed token, and one past the highest.
        recent: [I, J, W]: the tokens that the repetition penalty applies to; -1 is none.
    """
    scores = logits.float()
    if recent is not None:
        scores = _penalised(scores, recent, settings.penalty)
    if allowed is not None:
        token = torch.arange(scores.shape[-1], device=scores.device)
        outside = (token < allowed[..., :1]) | (token >= allowed[..., 1:])
        scores = scores.masked_fill(outside, -torch.inf)
    scores, tokens = _likeliest(scores, settings)
    rank = _choose_rank(scores, uniforms, settings)
    return tokens.gather(-1, rank[..., None]).squeeze(-1)


def random_seed() -> int:
    """A random seed, for requests without one."""
    return secrets.randbelow(2**32)


def check_seed(seed: int) -> None:
    """Raises ValueError unless the seed is valid."""
    _check_whole("seed", seed, least=0)


def uniforms(seed: int, name: str, start: int, count: int, num_streams: int) -> Tensor:
    """Numbers [J, count] in [0, 1) for the steps from `start`, float32, on the CPU.

    They are a function of seed, name, stream and step: splitting a call does not change them.

    Args:
        name: separates consumers such as stages: each name gets different numbers.
    """
    return _numbers(_uniform_block, seed, name, start, count, num_streams)


def gaussians(seed: int, name: str, start: int, count: int, num_streams: int) -> Tensor:
    """Standard normal numbers [J, count], float32, on the CPU; otherwise like `uniforms`."""
    return _numbers(_gaussian_block, seed, f"{name}/gaussians", start, count, num_streams)


def _numbers(
    block_of: Callable[[int, str, int, int], np.ndarray],
    seed: int,
    name: str,
    start: int,
    count: int,
    num_streams: int,
) -> Tensor:
    check_seed(seed)
    first, last = start // _BLOCK, (start + count) // _BLOCK
    rows = [
        np.concatenate([block_of(int(seed), name, stream, i) for i in range(first, last + 1)])
        for stream in range(num_streams)
    ]
    skipped = start - first * _BLOCK
    return torch.from_numpy(np.stack(rows)[:, skipped : skipped + count])


@lru_cache(maxsize=1024)
def _uniform_block(seed: int, name: str, stream: int, block: int) -> np.ndarray:
    words = _words(seed, name, stream, block)
    return (words >> (32 - _UNIFORM_BITS)).astype(np.float32) / np.float32(2**_UNIFORM_BITS)


def _gaussian_block(seed: int, name: str, stream: int, block: int) -> np.ndarray:
    # Box-Muller, always on whole blocks: a number does not depend on which others are wanted.
    words = _words(seed, name, stream, block).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[: _BLOCK // 2] + 1) / 2**32))
    angle = words[_BLOCK // 2 :] * (2 * np.pi / 2**32)
    pairs = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return pairs.astype(np.float32)


def _words(seed: int, name: str, stream: int, block: int) -> np.ndarray:
    """Random 32-bit words [256]."""
    # A hash rather than a generator: the same on every platform and version, and no two blocks
    # share a state, as generators that use only 32 bits of their seed would.
    key = repr((seed, name, stream, block)).encode()
    return np.frombuffer(hashlib.shake_256(key).digest(4 * _BLOCK), dtype="<u4")


def _penalised(scores: Tensor, recent: Tensor, penalty: Tensor) -> Tensor:
    V = scores.shape[-1]
    seen = torch.zeros(*scores.shape[:-1], V + 1, dtype=torch.bool, device=scores.device)
    seen.scatter_(-1, recent.remainder(V + 1), True)  # -1 goes to the extra last entry
    penalty = penalty[..., None]
    return torch.where(
        seen[..., :V], torch.where(scores > 0, scores / penalty, scores * penalty), scores
    )


def _likeliest(scores: Tensor, settings: SamplingTensors) -> tuple[Tensor, Tensor]:
    """Descending scores [I, J, V] and their tokens; only the top ones where a limit is known."""
    V = scores.shape[-1]
    if settings.most is None or settings.most >= V:
        return scores.sort(dim=-1, descending=True, stable=True)
    # Sort integers of the same order with the token in the low bits: no two are equal, so the order
    # of equal scores does not depend on the device.
    bits = (scores + 0.0).view(torch.int32).long()  # + 0.0: there is no -0.0
    order = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    token = torch.arange(V, device=scores.device)
    keys = order * 2**32 + (2**32 - 1 - token)
    tokens = 2**32 - 1 - keys.topk(settings.most, dim=-1).values.remainder(2**32)
    return scores.gather(-1, tokens), tokens


def _choose_rank(scores: Tensor, uniforms: Tensor, settings: SamplingTensors) -> Tensor:
    """The rank [I, J] of the sampled token among descending scores [I, J, V].

    Weights are integers so that their sums are exact: the order of summation, which depends on the
    device and the number of rows, cannot change a token.
    """
    V = scores.shape[-1]
    greedy = settings.temperature == 0
    temperature = settings.temperature.masked_fill(greedy, 1.0)[..., None]
    ratios = ((scores - scores[..., :1]) / temperature).exp()  # [I, J, V], to the likeliest
    top_k = settings.top_k.masked_fill(settings.top_k == 0, V)[..., None]
    among_top = torch.arange(V, device=scores.device) < top_k
    weights = (ratios * 2.0**_UNIT_BITS).long() * among_top
    ends = weights.cumsum(-1)  # [I, J, V]: token r owns the numbers from ends[r - 1] to ends[r]

    top_p = settings.top_p.masked_fill(settings.top_p == 0, 1.0)
    in_share = ends - weights < _share(ends[..., -1], top_p)[..., None]
    kept = (in_share & (ratios >= settings.min_p[..., None])).sum(-1).clamp(min=1)  # [I, J]
    mass = ends.gather(-1, kept[..., None] - 1).squeeze(-1)
    rank = (ends <= _share(mass, uniforms)[..., None]).sum(-1)
    return rank.masked_fill(greedy, 0)


def _share(mass: Tensor, part: Tensor) -> Tensor:
    """floor(mass * part), exactly: below the mass, and so a kept token's, for a part below 1."""
    part = (part * 2.0**_UNIFORM_BITS).long()
    low = mass & (2**_UNIFORM_BITS - 1)
    return part * (mass >> _UNIFORM_BITS) + ((part * low) >> _UNIFORM_BITS)


def _freeze(sampling: AnySampling) -> None:
    """Copies mutable arguments; lists, as read from JSON, become tuples."""
    if isinstance(sampling, Sampling) and isinstance(sampling.temperature, Sequence):
        object.__setattr__(sampling, "temperature", tuple(sampling.temperature))
    if isinstance(sampling, Unmasking) and isinstance(sampling.steps, Sequence):
        object.__setattr__(sampling, "steps", tuple(sampling.steps))
    if isinstance(sampling.guidance_scale, Mapping):
        object.__setattr__(sampling, "guidance_scale", dict(sampling.guidance_scale))
    if isinstance(sampling, Denoising) and isinstance(sampling.guidance_interval, Sequence):
        object.__setattr__(sampling, "guidance_interval", tuple(sampling.guidance_interval))
    points = [tuple(p) if isinstance(p, Sequence) else p for p in sampling.guidance_schedule]
    object.__setattr__(sampling, "guidance_schedule", tuple(points))


def _scheduled(scale: float, schedule: tuple[tuple[float, float], ...], seconds: float) -> float:
    if not schedule:
        return scale
    times, factors = zip(*schedule, strict=True)
    return 1.0 + (scale - 1.0) * float(np.interp(seconds, times, factors))


def _check_guidance(sampling: AnySampling) -> None:
    scales = sampling.guidance_scale
    for scale in scales.values() if isinstance(scales, Mapping) else [scales]:
        _check_number("guidance_scale", scale)
    _check_schedule(sampling.guidance_schedule)


def _check_schedule(schedule: tuple[tuple[float, float], ...]) -> None:
    for point in schedule:
        if not isinstance(point, tuple) or len(point) != 2:
            raise ValueError(
                f"guidance_schedule must contain (seconds, factor) pairs, got {point!r}."
            )
        _check_number("guidance_schedule time", point[0])
        _check_number("guidance_schedule factor", point[1])
    times = [seconds for seconds, _ in schedule]
    if times != sorted(set(times)):
        raise ValueError(
            f"guidance_schedule times must increase, got {times}. Sort them and keep one point "
            "per time."
        )


def _check_interval(interval: tuple[float, float]) -> None:
    is_pair = isinstance(interval, tuple) and len(interval) == 2
    if not is_pair or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(
            f"guidance_interval must be two increasing numbers from 0 to 1, got {interval!r}."
        )


def _check_number(name: str, value: float, *, least: float = 0.0, most: float = 1e6) -> None:
    if not isinstance(value, (int, float, np.number)) or not least <= value <= most:
        raise ValueError(f"{name} must be a number from {least:g} to {most:g}, got {value!r}.")


def _check_whole(name: str, value: int, *, least: int, most: int | None = None) -> None:
    if not isinstance(value, (int, np.integer)) or value < least or value > (most or value):
        limit = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name} must be an integer of at least {least}{limit}, got {value!r}.")
