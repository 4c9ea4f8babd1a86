"""Solvers of the denoising equation, as generators over tensors.

A solver yields a noisy signal and its level and receives the network's `Estimate` for them. The
last yield is the result, at the last level. The caller may change the signal (known parts) before
it evaluates the network; the estimate holds the signal that was evaluated.

Each docstring names the scheduler of diffusers that gives the same.

Shapes: D width, T frames.
"""

import math
from collections.abc import Callable, Generator
from itertools import pairwise

import numpy as np
from torch import Tensor

from lm_audio.generation.noise_schedule import Estimate, Levels
from lm_audio.sampling import Denoising

Steps = Generator[tuple[Tensor, int], Estimate, None]
Fresh = Callable[[int], Tensor]
"""New noise [D, T] for a step."""

# Adams-Bashforth: the weights of the latest slopes, for as many as there are.
_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_LEAST_ALPHA = 1e-8


def solve(denoising: Denoising, x: Tensor, levels: Levels, *, fresh: Fresh) -> Steps:
    """The steps from noise x [D, T] to a signal, by the solver of these settings."""
    match denoising.solver:
        case "ddim":
            return ddim(x, levels, eta=denoising.eta, fresh=fresh)
        case "euler":
            return euler(x, levels)
        case "dpm++2m":
            return dpmpp_2m(x, levels)
        case "dpm++2s-ancestral":
            return dpmpp_2s_ancestral(x, levels, fresh=fresh)
        case "dpm++2m-sde":
            return dpmpp_2m_sde(x, levels, fresh=fresh)
        case "ipndm":
            return ipndm(x, levels)
        case "lms":
            return lms(x, levels)
        case "heun":
            return heun(x, levels)
        case "ping-pong":
            return ping_pong(x, levels, fresh=fresh)


def ddim(x: Tensor, levels: Levels, *, eta: float, fresh: Fresh) -> Steps:
    """DDIMScheduler: eta 0 adds no noise, 1 as much as ancestral sampling (DDPM)."""
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        kept = alpha * next_sigma / (next_alpha * sigma)
        added = eta * next_sigma * math.sqrt(max(0.0, 1 - kept**2))
        x = next_alpha * now.x0 + math.sqrt(next_sigma**2 - added**2) * now.noise
        if added:
            x = x + added * fresh(i)
    yield x, levels.num_steps


def euler(x: Tensor, levels: Levels) -> Steps:
    """EulerDiscreteScheduler and FlowMatchEulerDiscreteScheduler.

    A step along the slope of x, of x / alpha or of both levels is the same: signal and noise stay,
    their shares change.
    """
    for i, (_, (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        x = next_alpha * now.x0 + next_sigma * now.noise
    yield x, levels.num_steps


def dpmpp_2m(x: Tensor, levels: Levels) -> Steps:
    """DPMSolverMultistepScheduler: DPM-Solver++ of order 2, midpoint; order 1 at a clean end."""
    x0_before: Tensor | None = None
    h_before = 0.0
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        h = _log_ratio(next_alpha, next_sigma) - _log_ratio(alpha, sigma)
        x0 = now.x0
        if x0_before is not None and next_sigma > 0:
            x0 = x0 + 0.5 * (h / h_before) * (x0 - x0_before)
        x = (next_sigma / sigma) * now.x - next_alpha * math.expm1(-h) * x0
        x0_before, h_before = now.x0, h
    yield x, levels.num_steps


def dpmpp_2s_ancestral(x: Tensor, levels: Levels, *, fresh: Fresh) -> Steps:
    """k-diffusion's sample_dpmpp_2s_ancestral: DPM-Solver++ of order 2 with new noise.

    A step goes below the next level and then adds noise up to it. The point halfway, where the
    network is evaluated again, is the next level. The last step, to no noise, has order 1.
    """
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        x = next_alpha * now.x0 + next_sigma * now.noise
        if next_sigma == 0:
            continue
        ahead = yield x, i + 1
        kept = alpha * next_sigma / (next_alpha * sigma)  # of the ratio of noise to signal
        from_x = next_sigma * kept / sigma
        x = from_x * now.x + next_alpha * (1 - kept**2) * ahead.x0
        x = x + next_sigma * math.sqrt(1 - kept**2) * fresh(i)
    yield x, levels.num_steps


def dpmpp_2m_sde(x: Tensor, levels: Levels, *, fresh: Fresh) -> Steps:
    """CosineDPMSolverMultistepScheduler, and DPMSolverMultistepScheduler with sde-dpmsolver++.

    DPM-Solver++ of order 2 for the equation with noise; order 1 at a clean end.
    """
    x0_before: Tensor | None = None
    h_before = 0.0
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        h = _log_ratio(next_alpha, next_sigma) - _log_ratio(alpha, sigma)
        x0, share = now.x0, -math.expm1(-2 * h)  # of the variance that is new
        if x0_before is not None and next_sigma > 0:
            x0 = x0 + 0.5 * (h / h_before) * (x0 - x0_before)
        x = (next_sigma / sigma * math.exp(-h)) * now.x + (next_alpha * share) * x0
        if next_sigma:
            x = x + next_sigma * math.sqrt(share) * fresh(i)
        x0_before, h_before = now.x0, h
    yield x, levels.num_steps


def ipndm(x: Tensor, levels: Levels) -> Steps:
    """IPNDMScheduler: Adams-Bashforth of order 4 on the noise.

    The first step of a run that starts without signal (alpha is 0) takes the signal as 0, as in
    Dance Diffusion.
    """
    slopes: list[Tensor] = []
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        slopes = [now.noise, *slopes[:3]]
        weights = _ADAMS_BASHFORTH[len(slopes) - 1]
        noise = weights[0] * slopes[0]
        for weight, slope in zip(weights[1:], slopes[1:], strict=True):
            noise = noise + weight * slope
        x0 = (now.x - sigma * noise) / max(alpha, _LEAST_ALPHA)
        x = next_alpha * x0 + next_sigma * noise
    yield x, levels.num_steps


def lms(x: Tensor, levels: Levels) -> Steps:
    """LMSDiscreteScheduler: linear multistep of order 4 on x / alpha.

    A step from a level without signal, where that is infinite, has order 1.
    """
    slopes: list[Tensor] = []
    ratios: list[float] = []
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        if alpha == 0:
            x = next_alpha * now.x0 + next_sigma * now.noise
            continue
        slopes, ratios = [now.noise, *slopes[:3]], [sigma / alpha, *ratios[:3]]
        x = (next_alpha / alpha) * now.x
        weights = _lagrange_integrals(ratios, next_sigma / next_alpha)
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + next_alpha * weight * slope
    yield x, levels.num_steps


def heun(x: Tensor, levels: Levels) -> Steps:
    """HeunDiscreteScheduler and FlowMatchHeunDiscreteScheduler.

    Each step evaluates the network twice, one that ends without noise once, and so does one that
    starts without signal, but for flow models. The slopes that it averages are those of x for flow
    models, else those of x / alpha.
    """
    for i, ((alpha, sigma), (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        x = next_alpha * now.x0 + next_sigma * now.noise
        if next_sigma == 0 or (alpha == 0 and not levels.straight):
            continue
        ahead = yield x, i + 1
        if levels.straight:
            slope = (now.noise - now.x0 + ahead.noise - ahead.x0) / 2
            x = now.x + (next_sigma - sigma) * slope
        else:
            noise = (now.noise + ahead.noise) / 2
            kept = next_alpha / alpha
            x = kept * now.x + (next_sigma - kept * sigma) * noise
    yield x, levels.num_steps


def ping_pong(x: Tensor, levels: Levels, *, fresh: Fresh) -> Steps:
    """FlowMatchLCMScheduler: to the signal and back with new noise, for models of few steps."""
    for i, (_, (next_alpha, next_sigma)) in enumerate(_pairs(levels)):
        now = yield x, i
        x = next_alpha * now.x0
        if next_sigma:
            x = x + next_sigma * fresh(i)
    yield x, levels.num_steps


def _lagrange_integrals(points: list[float], end: float) -> list[float]:
    """The integral from points[0] to `end` of the polynomial that is 1 at one point, for each."""
    found = []
    for j, point in enumerate(points):
        others = np.array([other for k, other in enumerate(points) if k != j])
        area = np.polyint(np.atleast_1d(np.poly(others)) / np.prod(point - others))
        found.append(float(np.polyval(area, end) - np.polyval(area, points[0])))
    return found


def _pairs(
    levels: Levels,
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """(alpha, sigma) of each level and of the one after it."""
    return list(pairwise(zip(levels.alpha, levels.sigma, strict=True)))


def _log_ratio(alpha: float, sigma: float) -> float:
    if alpha == 0 or sigma == 0:
        return math.inf if alpha else -math.inf
    return math.log(alpha / sigma)
