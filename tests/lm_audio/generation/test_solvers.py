"""Noise schedules and solvers against the schedulers of diffusers, on the same network outputs.

The schedulers keep their tables and samples as float32; here their modules compute in float64.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from lm_audio.generation.noise_schedule import (
    Estimate,
    Levels,
    NoiseSchedule,
    Predicts,
    estimate,
)
from lm_audio.generation.solvers import Steps, ddim, solve
from lm_audio.sampling import Denoising, Solver, SolverAlias

TRAINED = {"beta_start": 0.0015, "beta_end": 0.0195}
BETA_SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
PREDICTION_TYPES: dict[Predicts, str] = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
KINDS = ["linear", "scaled_linear", "cosine"]
NOISE = torch.randn(8, 11, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class In64Bits:
    """A module whose float32 is float64."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.float32 = module.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@pytest.fixture(autouse=True)
def _schedulers_in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (
        "DDIM",
        "DPMSolverMultistep",
        "IPNDM",
        "EulerDiscrete",
        "HeunDiscrete",
        "LMSDiscrete",
    ):
        patch(monkeypatch, f"{name}Scheduler")
    for name in ("LMSDiscrete", "EulerAncestralDiscrete"):
        patch(monkeypatch, f"{name}Scheduler")
    for name in ("EulerDiscrete", "HeunDiscrete", "LCM"):
        patch(monkeypatch, f"FlowMatch{name}Scheduler")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def patch(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = sys.modules[getattr(diffusers, name).__module__]
    monkeypatch.setattr(module, "torch", In64Bits(torch))
    if hasattr(module, "np"):
        monkeypatch.setattr(module, "np", In64Bits(np))


def network(x: Tensor, evaluation: int) -> Tensor:
    """A fixed one, other at each evaluation."""
    return torch.sin(1.3 * x + evaluation) + 0.1 * x.roll(1, dims=-1)


def run(solver: Solver | Steps, levels: Levels, predicts: Predicts) -> Tensor:
    steps = solver
    if isinstance(solver, str):
        steps = solve(Denoising(solver=solver), NOISE, levels, fresh=no_noise)
    x, i = next(steps)
    evaluation = 0
    while i < levels.num_steps:
        output = network(x, evaluation)
        alpha, sigma = levels.alpha[i], levels.sigma[i]
        x, i = steps.send(estimate(output, x, alpha=alpha, sigma=sigma, predicts=predicts))
        evaluation += 1
    return x


def no_noise(step: int) -> Tensor:
    raise AssertionError(f"Step {step} of a solver without noise wants some.")


def expected(scheduler: Any, **options: Any) -> Tensor:
    """What a scheduler makes of the noise; some keep x / alpha instead of x."""
    x = NOISE
    kinds = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler")
    if type(scheduler).__name__ in kinds:
        x = x * math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
    for i, t in enumerate(scheduler.timesteps):
        seen = x
        if hasattr(scheduler, "scale_model_input"):
            seen = scheduler.scale_model_input(x, t)
        x = scheduler.step(network(seen, i), t, x, **options).prev_sample
    return x


def prepared(scheduler: Any, num_steps: int, **options: Any) -> Any:
    scheduler.set_timesteps(num_steps, **options)
    return scheduler


def config(kind: str, predicts: Predicts = "epsilon", **others: Any) -> dict[str, Any]:
    prediction_type = PREDICTION_TYPES[predicts]
    return {
        "beta_schedule": BETA_SCHEDULES[kind],
        "prediction_type": prediction_type,
        **TRAINED,
        **others,
    }


def assert_same(made: Tensor, wanted: Tensor, *, atol: float = 1e-9) -> None:
    assert wanted.dtype == torch.float64
    scale = float(wanted.abs().max().clamp(min=1))
    torch.testing.assert_close(made, wanted, atol=atol * scale, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predicts", list(PREDICTION_TYPES))
@pytest.mark.parametrize("num_steps", [1, 10, 50])
def test_ddim_equals_diffusers(kind: Any, predicts: Predicts, num_steps: int) -> None:
    for spacing, offset, ends_clean in (("trailing", 0, True), ("leading", 1, False)):
        schedule = NoiseSchedule(
            kind=kind, spacing=spacing, offset=offset, ends_clean=ends_clean, **TRAINED
        )
        scheduler = diffusers.DDIMScheduler(
            **config(kind, predicts, timestep_spacing=spacing, steps_offset=offset),
            set_alpha_to_one=ends_clean,
            clip_sample=False,
        )
        levels = schedule.levels(num_steps)
        prepared(scheduler, num_steps)
        assert list(levels.time) == scheduler.timesteps.tolist()
        assert_same(run("ddim", levels, predicts), expected(scheduler))


def test_ddim_with_noise_equals_diffusers_given_the_same_noise() -> None:
    scheduler = diffusers.DDIMScheduler(
        **config("scaled_linear", timestep_spacing="trailing"), clip_sample=False
    )
    levels = NoiseSchedule(kind="scaled_linear", **TRAINED).levels(20)
    for eta in (0.5, 1.0):
        generator = torch.Generator().manual_seed(3)
        wanted = expected(prepared(scheduler, 20), eta=eta, generator=generator)
        generator = torch.Generator().manual_seed(3)
        fresh = lambda _: torch.randn(NOISE.shape, generator=generator)  # noqa: B023, E731
        assert_same(run(ddim(NOISE, levels, eta=eta, fresh=fresh), levels, "epsilon"), wanted)
        without = ddim(NOISE, levels, eta=0.0, fresh=no_noise)
        assert (run(without, levels, "epsilon") - wanted).abs().max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("predicts", list(PREDICTION_TYPES))
@pytest.mark.parametrize("num_steps", [1, 2, 7, 20])
def test_dpm_solver_equals_diffusers(kind: Any, predicts: Predicts, num_steps: int) -> None:
    for spacing, ends_clean in (("trailing", True), ("linspace", True), ("trailing", False)):
        schedule = NoiseSchedule(kind=kind, spacing=spacing, ends_clean=ends_clean, **TRAINED)
        scheduler = diffusers.DPMSolverMultistepScheduler(
            **config(kind, predicts, timestep_spacing=spacing),
            final_sigmas_type="zero" if ends_clean else "sigma_min",
            lower_order_final=False,
        )
        levels = schedule.levels(num_steps)
        prepared(scheduler, num_steps)
        assert list(levels.time) == scheduler.timesteps.tolist()
        assert_same(run("dpm++2m", levels, predicts), expected(scheduler))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("num_steps", [2, 7, 20])
def test_euler_and_heun_equal_diffusers(kind: Any, solver: Any, num_steps: int) -> None:
    scheduler_class = {
        "euler": diffusers.EulerDiscreteScheduler,
        "heun": diffusers.HeunDiscreteScheduler,
    }[solver]
    for predicts in ("epsilon", "v"):
        for spacing in ("trailing", "karras"):
            others = {"timestep_spacing": spacing}
            if spacing == "karras":  # over the whole range of the training's noise
                others = {"timestep_spacing": "linspace", "use_karras_sigmas": True}
            scheduler = prepared(scheduler_class(**config(kind, predicts, **others)), num_steps)
            levels = NoiseSchedule(kind=kind, spacing=spacing, **TRAINED).levels(num_steps)
            visited = scheduler.timesteps.unique().flip(0)
            torch.testing.assert_close(torch.tensor(levels.time), visited, atol=1e-6, rtol=1e-6)
            assert_same(run(solver, levels, predicts), expected(scheduler))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 8, 100])
def test_ipndm_equals_diffusers(num_steps: int) -> None:
    levels = NoiseSchedule(kind="crash").levels(num_steps)
    scheduler = prepared(diffusers.IPNDMScheduler(), num_steps)
    torch.testing.assert_close(torch.tensor(levels.time), scheduler.timesteps)
    assert_same(run("ipndm", levels, "v"), expected(scheduler))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [2, 3, 7, 20])
def test_lms_equals_diffusers(kind: Any, num_steps: int) -> None:
    for predicts in ("epsilon", "v"):
        others = {"timestep_spacing": "trailing"}
        scheduler = diffusers.LMSDiscreteScheduler(**config(kind, predicts, **others))
        prepared(scheduler, num_steps)
        levels = NoiseSchedule(kind=kind, spacing="trailing", **TRAINED).levels(num_steps)
        # diffusers integrates numerically.
        assert_same(run("lms", levels, predicts), expected(scheduler), atol=1e-6)


def ratios_of(levels: Levels) -> list[float]:
    return [s / a for a, s in zip(levels.alpha, levels.sigma, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_dpm_solver_2s_ancestral_is_the_formula_of_k_diffusion(kind: Any, num_steps: int) -> None:
    """In its terms: y = x / alpha, sigma = ratio of noise to signal, with eta 1."""
    levels = NoiseSchedule(kind=kind, spacing="trailing", **TRAINED).levels(num_steps)
    sigmas, noises = ratios_of(levels), [NOISE.roll(i + 1) for i in range(num_steps)]
    evaluation = 0

    def denoised(y: Tensor, sigma: float) -> Tensor:
        nonlocal evaluation
        alpha = 1 / math.sqrt(1 + sigma**2)
        found = estimate(
            network(y * alpha, evaluation), y * alpha, alpha=alpha, sigma=sigma * alpha,
            predicts="v",
        )  # fmt: skip
        evaluation += 1
        return found.x0

    y = NOISE / levels.alpha[0]
    for i in range(num_steps):
        sigma, after = sigmas[i], sigmas[i + 1]
        found = denoised(y, sigma)
        up = min(after, math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
        down = math.sqrt(after**2 - up**2)
        if down == 0:
            y = y + (y - found) / sigma * (down - sigma)
        else:
            t, t_next = -math.log(sigma), -math.log(down)
            h = t_next - t
            middle = math.exp(-(t + h / 2))
            halfway = (middle / sigma) * y - math.expm1(-h / 2) * found
            y = (down / sigma) * y - math.expm1(-h) * denoised(halfway, middle)
            y = y + noises[i] * up
    steps = solve(Denoising(solver="dpm++2s-ancestral"), NOISE, levels, fresh=lambda i: noises[i])
    assert_same(run(steps, levels, "v"), y * levels.alpha[-1], atol=1e-7)


def test_k_euler_ancestral_is_ddim_with_eta_1() -> None:
    scheduler = diffusers.EulerAncestralDiscreteScheduler(
        **config("scaled_linear", timestep_spacing="trailing")
    )
    prepared(scheduler, 20)
    x = NOISE * math.sqrt(1 + float(scheduler.sigmas[0]) ** 2)
    generator = torch.Generator().manual_seed(3)
    for i, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), i)
        x = scheduler.step(output, t, x, generator=generator).prev_sample
    generator = torch.Generator().manual_seed(3)
    levels = NoiseSchedule(kind="scaled_linear", **TRAINED).levels(20)
    fresh = lambda _: torch.randn(NOISE.shape, generator=generator)  # noqa: E731
    steps = solve(Denoising(solver="k-euler-ancestral"), NOISE, levels, fresh=fresh)  # type: ignore[arg-type]
    assert_same(run(steps, levels, "epsilon"), x)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 8, 25])
def test_flow_euler_equals_diffusers(shift: float, num_steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    prepared(scheduler, num_steps, sigmas=np.linspace(1, 1 / num_steps, num_steps))
    levels = NoiseSchedule(kind="flow", shift=shift).levels(num_steps)
    torch.testing.assert_close(torch.tensor(levels.sigma), scheduler.sigmas)
    assert_same(run("euler", levels, "flow"), expected(scheduler))


@pytest.mark.parametrize("num_steps", [2, 8, 25])
def test_flow_heun_equals_diffusers(num_steps: int) -> None:
    scheduler = prepared(diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), num_steps)
    sigma = scheduler.sigmas.unique().flip(0)
    levels = Levels(
        alpha=tuple((1 - sigma).tolist()),
        sigma=tuple(sigma.tolist()),
        time=tuple(sigma[:-1].tolist()),
        straight=True,
    )
    assert_same(run("heun", levels, "flow"), expected(scheduler))


@pytest.mark.parametrize("num_steps", [2, 7, 20])
def test_dpm_solver_of_a_flow_model_equals_diffusers(num_steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    prepared(scheduler, num_steps)
    sigma = scheduler.sigmas
    levels = Levels(
        alpha=tuple((1 - sigma).tolist()),
        sigma=tuple(sigma.tolist()),
        time=tuple(sigma[:-1].tolist()),
        straight=True,
    )
    assert_same(run("dpm++2m", levels, "flow"), expected(scheduler))


@pytest.mark.parametrize("num_steps", [1, 4, 8])
def test_ping_pong_equals_diffusers_given_the_same_noise(num_steps: int) -> None:
    scheduler = diffusers.FlowMatchLCMScheduler(shift=2.0)
    prepared(scheduler, num_steps, sigmas=np.linspace(1, 1 / num_steps, num_steps))
    levels = NoiseSchedule(kind="flow", shift=2.0).levels(num_steps)
    wanted = expected(scheduler, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    steps = solve(
        Denoising(solver="ping-pong"),
        NOISE,
        levels,
        fresh=lambda _: torch.randn(NOISE.shape, generator=generator),
    )
    assert_same(run(steps, levels, "flow"), wanted)


def drawn() -> Any:
    """New noise for each step."""
    generator = torch.Generator().manual_seed(3)
    return lambda *_: torch.randn(NOISE.shape, generator=generator)


@pytest.mark.parametrize("num_steps", [2, 7, 20, 100])
@pytest.mark.parametrize("ratios", [(500.0, 0.3), (80.0, 0.01)])
def test_the_schedule_and_the_solver_of_stable_audio_equal_diffusers(
    monkeypatch: pytest.MonkeyPatch,
    cosine_scheduler: Any,
    num_steps: int,
    ratios: tuple[float, float],
) -> None:
    module = sys.modules[cosine_scheduler.__module__]
    monkeypatch.setattr(module, "torch", In64Bits(torch))
    scheduler = prepared(
        cosine_scheduler(sigma_max=ratios[0], sigma_min=ratios[1], final_sigmas_type="zero"),
        num_steps,
    )
    scheduler.noise_sampler = drawn()
    levels = NoiseSchedule(kind="angle", spacing="exponential", ratios=ratios).levels(num_steps)
    torch.testing.assert_close(torch.tensor(levels.time), scheduler.timesteps, atol=1e-12, rtol=0)
    x = NOISE * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(x, t), i)
        x = scheduler.step(output, t, x).prev_sample
    steps = solve(Denoising(solver="dpm++2m-sde"), NOISE, levels, fresh=drawn())
    assert_same(run(steps, levels, "v"), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_steps", [1, 7, 20])
def test_dpm_solver_with_noise_equals_diffusers(kind: Any, num_steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **config(kind, timestep_spacing="trailing"),
        algorithm_type="sde-dpmsolver++",
        final_sigmas_type="zero",
        lower_order_final=False,
    )
    wanted = expected(prepared(scheduler, num_steps), generator=torch.Generator().manual_seed(3))
    levels = NoiseSchedule(kind=kind, **TRAINED).levels(num_steps)
    steps = solve(Denoising(solver="dpm++2m-sde"), NOISE, levels, fresh=drawn())
    assert_same(run(steps, levels, "epsilon"), wanted)


@pytest.mark.parametrize("num_steps", [1, 2, 8, 100])
def test_the_exponential_spacing_of_a_flow_equals_diffusers(num_steps: int) -> None:
    pytest.importorskip("diffusers", minversion="0.42")
    from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule

    sigmas = logsnr_sigma_schedule(num_steps, logsnr_min=-6.2, logsnr_max=2.0)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    prepared(scheduler, None, sigmas=sigmas)  # type: ignore[arg-type]
    ratios = (math.exp(6.2), math.exp(-2.0))
    levels = NoiseSchedule(kind="flow", spacing="exponential", ratios=ratios).levels(num_steps)
    torch.testing.assert_close(torch.tensor(levels.sigma), scheduler.sigmas, atol=1e-12, rtol=0)
    wanted = expected(scheduler, generator=torch.Generator().manual_seed(3))
    steps = solve(Denoising(solver="ping-pong"), NOISE, levels, fresh=drawn())
    assert_same(run(steps, levels, "flow"), wanted)


@pytest.mark.parametrize("solver", [x for x in get_args(Solver) if x != "ping-pong"])
@pytest.mark.parametrize(("kind", "predicts"), [("flow", "flow"), ("crash", "v"), ("angle", "v")])
def test_a_run_that_starts_without_signal_stays_finite(
    solver: Any, kind: Any, predicts: Predicts
) -> None:
    levels = NoiseSchedule(kind=kind).levels(6)
    assert levels.alpha[0] == 0
    steps = solve(Denoising(solver=solver), NOISE, levels, fresh=lambda i: NOISE.roll(i + 1))
    made = run(steps, levels, predicts)
    assert made.isfinite().all()
    assert made.abs().max() < 100


@pytest.mark.parametrize("solver", ["lms", "heun", "dpm++2m"])
def test_a_crash_schedule_converges_to_the_same_sound(solver: Any) -> None:
    """Against many steps of ddim, for the exact denoiser of Gaussian data."""
    spread = 0.3

    def made(name: Any, num_steps: int) -> Tensor:
        levels = NoiseSchedule(kind="crash").levels(num_steps)
        steps = solve(Denoising(solver=name), NOISE, levels, fresh=no_noise)
        x, i = next(steps)
        while i < levels.num_steps:
            a, s = levels.alpha[i], levels.sigma[i]
            x0 = x * a * spread**2 / (a**2 * spread**2 + s**2)
            x, i = steps.send(Estimate(x=x, x0=x0, noise=(x - a * x0) / s))
        return x

    exact = made("ddim", 4000)
    torch.testing.assert_close(exact, spread * NOISE, atol=1e-2, rtol=0)
    error = float((made(solver, 40) - exact).abs().max())
    assert error < 0.25 * float((made("ddim", 40) - exact).abs().max())


def test_names_of_other_programs_are_ours() -> None:
    for name in get_args(SolverAlias):
        sampling = Denoising(solver=name)
        assert sampling.solver in get_args(Solver)
        assert sampling.eta == (1.0 if name in ("v-ddpm", "k-euler-ancestral") else 0.0)
        assert replace(sampling) == sampling
    assert Denoising(solver="v-ddim", eta=0.4) == Denoising(solver="ddim", eta=0.4)  # type: ignore[arg-type]
    assert Denoising(solver="v-iplms").solver == "ipndm"  # type: ignore[arg-type]


def test_solvers_that_are_missing_name_the_nearest() -> None:
    for name, nearest in (("k-dpm-fast", "dpm++2m"), ("k-dpm-2", "heun")):
        message = rf"Unknown solver '{name}'. The nearest is {re.escape(nearest)}. Choose one of: "
        with pytest.raises(ValueError, match=message):
            Denoising(solver=name)  # type: ignore[arg-type]


def test_all_predictions_of_one_signal_give_that_signal_and_its_noise() -> None:
    x0, noise = NOISE, NOISE.flip(0)
    for alpha, sigma in ((0.6, 0.8), (0.3, 0.7)):
        outputs: dict[Predicts, Tensor] = {
            "epsilon": noise,
            "x0": x0,
            "v": alpha * noise - sigma * x0,
            "flow": noise - x0,
        }
        x = alpha * x0 + sigma * noise
        for predicts, output in outputs.items():
            found = estimate(output, x, alpha=alpha, sigma=sigma, predicts=predicts)
            torch.testing.assert_close(found.x0, x0)
            torch.testing.assert_close(found.noise, noise)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "sigmoid"}, "Unknown kind 'sigmoid'. Choose one of: linear, scaled_linear"),
        ({"kind": "cosine", "spacing": "even"}, "Unknown spacing 'even'. Choose one of: leading"),
        ({"kind": "linear", "beta_start": 0.1, "beta_end": 0.01}, "beta_end < 1, got 0.1 and 0.01"),
        ({"kind": "cosine", "shift": 3.0}, "shift must be .* got 3.0 for cosine"),
        ({"kind": "flow", "shift": 0.0}, "shift must be above 0 .* got 0.0 for flow"),
        ({"kind": "flow", "spacing": "exponential"}, "Exponential spacing needs ratios"),
        ({"kind": "angle", "ratios": (500.0, 0.3)}, "Exponential spacing needs ratios"),
        (
            {"kind": "cosine", "spacing": "exponential", "ratios": (500.0, 0.3)},
            "needs ratios and a flow or angle schedule",
        ),
        (
            {"kind": "angle", "spacing": "exponential", "ratios": (0.3, 500.0)},
            r"ratios must fall and be above 0, got \(0.3, 500.0\)",
        ),
    ],
)
def test_wrong_schedules_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(**wrong)


def test_more_steps_than_the_model_was_trained_with_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at most 1000 for this model, got 1001"):
        NoiseSchedule(kind="linear").levels(1001)
