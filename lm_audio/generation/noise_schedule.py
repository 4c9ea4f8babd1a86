"""Noise schedules: the levels (alpha, sigma) of a denoising run.

A noisy signal is x = alpha * x0 + sigma * noise. A model predicts the noise (epsilon), the signal
(x0), the velocity v = alpha * noise - sigma * x0 or the flow noise - x0. Each gives the same pair
(x0, noise), and the solvers work on that.

Not here: the solvers, and training.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from torch import Tensor

Kind = Literal["linear", "scaled_linear", "cosine", "flow", "crash", "angle"]
Spacing = Literal["leading", "trailing", "linspace", "karras", "exponential"]
Predicts = Literal["epsilon", "v", "x0", "flow"]

_KARRAS_RHO = 7.0
_MAX_BETA = 0.999  # of cosine schedules


@dataclass(frozen=True, kw_only=True)
class Levels:
    """The levels of one run of S steps, from noise to signal.

    Args:
        alpha, sigma: S + 1 values each; the last pair is where the run ends.
        time: S values, the network's input for each level but the last.
        straight: the levels of a flow model, for which alpha + sigma is 1.
    """

    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    time: tuple[float, ...]
    straight: bool = False

    @property
    def num_steps(self) -> int:
        return len(self.time)

    def last(self, num_steps: int) -> "Levels":
        """The levels of the last steps."""
        first = self.num_steps - num_steps
        return replace(
            self, alpha=self.alpha[first:], sigma=self.sigma[first:], time=self.time[first:]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate:
    """The signal x0 and the noise that a network finds in x; all [D, T]."""

    x: Tensor
    x0: Tensor
    noise: Tensor


def estimate(
    output: Tensor,
    x: Tensor,
    *,
    alpha: float | Tensor,
    sigma: float | Tensor,
    predicts: Predicts,
) -> Estimate:
    """Signal and noise from a network's output [D, T] for x [D, T]; epsilon needs alpha > 0.

    Batches [B, D, T] with levels [B, 1, 1] work, too.
    """
    if predicts == "epsilon":
        return Estimate(x=x, x0=(x - sigma * output) / alpha, noise=output)
    if predicts == "x0":
        return Estimate(x=x, x0=output, noise=(x - alpha * output) / sigma)
    if predicts == "v":
        power = alpha**2 + sigma**2
        x0, noise = alpha * x - sigma * output, sigma * x + alpha * output
        return Estimate(x=x, x0=x0 / power, noise=noise / power)
    total = alpha + sigma
    return Estimate(x=x, x0=(x - sigma * output) / total, noise=(x + alpha * output) / total)


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """The noise levels of a model's training and the spacing of a run along them.

    Args:
        kind: linear and scaled_linear: betas increase linearly, or as the square of a linear ramp;
            cosine: squared-cosine alphas; flow: alpha = 1 - t, sigma = t; crash: sigma =
            sin(pi t / 2) ** 2 (Dance Diffusion); angle: sigma = sin(pi t / 2) (Stable Audio). The
            network's time is the index of the training step for the first three, sigma for flow,
            and 2 / pi times the angle of (alpha, sigma) for crash and angle.
        spacing: of the training steps in a run; karras spaces sigma / alpha instead, and
            exponential its logarithm. In flow, crash and angle schedules t decreases linearly
            unless the spacing is exponential.
        offset: added to the training steps of leading spacing.
        ends_clean: the run ends without noise; otherwise at the level of the first training step.
        shift: of a flow schedule; values above 1 spend more steps at high noise.
        ratios: the largest and the smallest sigma / alpha of exponential spacing. A run of an angle
            schedule starts with the largest, visits the smallest and ends without noise; one of a
            flow schedule starts without signal and ends without noise in their place.
    """

    kind: Kind
    spacing: Spacing = "trailing"
    num_train_steps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    offset: int = 0
    ends_clean: bool = True
    shift: float = 1.0
    ratios: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kind", self.kind, get_args(Kind)),
            ("spacing", self.spacing, get_args(Spacing)),
        ):
            if value not in choices:
                raise ValueError(f"Unknown {name} {value!r}. Choose one of: {', '.join(choices)}.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                "Betas must satisfy 0 < beta_start <= beta_end < 1, got "
                f"{self.beta_start} and {self.beta_end}."
            )
        if not self.shift > 0 or (self.shift != 1 and self.kind != "flow"):
            raise ValueError(
                "shift must be above 0 for a flow schedule and 1 for others, got "
                f"{self.shift} for {self.kind}."
            )
        if (self.spacing == "exponential") != (self.ratios is not None) or (
            self.ratios is not None and self.kind not in ("flow", "angle")
        ):
            raise ValueError(
                "Exponential spacing needs ratios and a flow or angle schedule, and other spacings "
                f"take none, got {self.spacing}, {self.kind} and {self.ratios}."
            )
        if self.ratios is not None:
            object.__setattr__(self, "ratios", tuple(self.ratios))  # config.json has a list
            if not 0 < self.ratios[1] < self.ratios[0] < math.inf:
                raise ValueError(f"ratios must fall and be above 0, got {self.ratios}.")

    @property
    def is_continuous(self) -> bool:
        """Whether the network's time is continuous, not the index of a training step."""
        return self.kind in ("flow", "crash", "angle")

    @property
    def starts_without_signal(self) -> bool:
        """Whether alpha is exactly 0 at the first level."""
        return self.is_continuous and (self.kind != "angle" or self.ratios is None)

    def levels(self, num_steps: int) -> Levels:
        """The levels of a run of this many steps."""
        if self.is_continuous:
            return self._continuous(num_steps)
        if num_steps > self.num_train_steps:
            raise ValueError(
                f"steps must be at most {self.num_train_steps} for this model, got {num_steps}."
            )
        signal = self._signal()
        if self.spacing == "karras":
            visited, time = _karras(signal, num_steps)
        else:
            steps = self._steps(num_steps)
            visited, time = signal[steps], steps.astype(np.float64)
        visited = np.append(visited, 1.0 if self.ends_clean else signal[0])
        return Levels(
            alpha=tuple(np.sqrt(visited).tolist()),
            sigma=tuple(np.sqrt(1 - visited).tolist()),
            time=tuple(time.tolist()),
        )

    def _continuous(self, num_steps: int) -> Levels:
        t = np.linspace(1, 0, num_steps + 1)
        if self.ratios is not None:
            high, low = np.log(self.ratios)
            if self.kind == "flow":
                spaced = np.exp(np.linspace(high, low, num_steps + 1)[1:-1])
                t[1:-1] = spaced / (1 + spaced)
            else:
                spaced = np.exp(np.linspace(high, low, num_steps))
                t[:-1] = np.arctan(spaced) / math.pi * 2
        alpha, sigma, time = _levels_at(self.kind, t, self.shift)
        return Levels(
            alpha=tuple(alpha.tolist()),
            sigma=tuple(sigma.tolist()),
            time=tuple(time[:-1].tolist()),
            straight=self.kind == "flow",
        )

    def at(self, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Levels for training: alpha, sigma and the network's time.

        Args:
            share: from 0, almost no noise, to below 1; uniform shares are uniform training steps,
                or a uniform t.
        """
        if self.is_continuous:
            return _levels_at(self.kind, share, self.shift)
        steps = (share * self.num_train_steps).astype(np.int64)
        signal = self._signal()[steps]
        return np.sqrt(signal), np.sqrt(1 - signal), steps.astype(np.float64)

    def _signal(self) -> np.ndarray:
        """The power of the signal, alpha squared, at each training step."""
        N = self.num_train_steps
        if self.kind == "cosine":
            t = np.arange(N + 1) / N
            bar = np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - bar[1:] / bar[:-1], _MAX_BETA)
        elif self.kind == "linear":
            betas = np.linspace(self.beta_start, self.beta_end, N)
        else:
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, N) ** 2
        return np.cumprod(1 - betas)

    def _steps(self, num_steps: int) -> np.ndarray:
        """The training steps of a run, in decreasing order."""
        N = self.num_train_steps
        if self.spacing == "leading":
            steps = np.arange(num_steps)[::-1] * float(N // num_steps) + self.offset
        elif self.spacing == "trailing":
            steps = np.round(N - np.arange(num_steps) * (N / num_steps)) - 1
        else:
            steps = np.linspace(0, N - 1, num_steps + 1).round()[:0:-1]
        return np.minimum(steps, N - 1).astype(np.int64)


def _levels_at(
    kind: Kind, t: np.ndarray, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, sigma and the network's time of a continuous schedule at t from 0 to 1."""
    if kind == "flow":
        sigma = shift * t / (1 + (shift - 1) * t)
        return 1 - sigma, sigma, sigma
    if kind == "angle":
        alpha = np.where(t == 1, 0.0, np.cos(t * math.pi / 2))
        return alpha, np.sin(t * math.pi / 2), t
    sigma = np.sin(t * math.pi / 2) ** 2
    alpha = np.sqrt(1 - sigma**2)
    return alpha, sigma, np.arctan2(sigma, alpha) / math.pi * 2


def _karras(signal: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Signal power and fractional training steps, with the spacing of Karras et al. (2022)."""
    ratios = np.sqrt((1 - signal) / signal)  # rising
    high, low = ratios[-1] ** (1 / _KARRAS_RHO), ratios[0] ** (1 / _KARRAS_RHO)
    visited = np.linspace(high, low, num_steps) ** _KARRAS_RHO
    time = np.interp(np.log(visited), np.log(ratios), np.arange(len(ratios)))
    return 1 / (1 + visited**2), time
