"""The rounds in which masked tokens of one codebook are decided (MaskGIT, arXiv 2202.04200).

Each round predicts all masked frames, keeps the most confident predictions and masks the others
again. Frames are masked in spans of neighbours (MAGNeT, arXiv 2401.04577), of one frame in
SoundStorm (arXiv 2305.09636). A span is as confident as its most confident frame.

Shapes: T frames, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lm_audio.sampling import MaskSchedule, Sampling, Unmasking, choose, sampling_tensors

COOLEST = 1e-2  # the lowest annealed temperature


def masked_shares(schedule: MaskSchedule, num_rounds: int) -> Tensor:
    """The share of the spans that are masked in each round, from 1 to 0: float32."""
    progress = torch.linspace(0, 1, num_rounds)
    if schedule == "linear":
        return 1 - progress
    return torch.cos(progress * math.pi * 0.5).clamp(min=0)


class Rounds:
    """The masked frames of one codebook of a window, round by round.

    Args:
        known: [T], frames that are never masked.
        span: frames that are masked together; a known frame of a span keeps its token.
        shares: the share of the spans that are masked in each round.
    """

    def __init__(self, known: Tensor, *, span: int, shares: Tensor) -> None:
        self._known = known
        self._shares = shares
        self._span_of = torch.arange(len(known), device=known.device) // span
        num_spans = -(-len(known) // span)
        self._doubt = torch.full((num_spans,), -torch.inf, device=known.device)
        self._doubt[self._span_of[~known]] = 0.0
        self._num_open = int((self._doubt == 0).sum())
        self._round = 0 if self._num_open else len(shares)
        self.masked = self._next_masked()

    @property
    def done(self) -> bool:
        return self._round == len(self._shares)

    @property
    def share(self) -> float:
        """The masked share in the current round."""
        return float(self._shares[self._round])

    @property
    def round(self) -> int:
        return self._round

    @property
    def rounds_left(self) -> int:
        """The number of rounds after this one."""
        return len(self._shares) - 1 - self._round

    def keep(self, confidence: Tensor) -> None:
        """Ends the round, given the confidence [T] in the predictions of the masked frames."""
        confidence = confidence.masked_fill(~self.masked, -torch.inf)
        best = torch.full_like(self._doubt, -torch.inf)
        best = best.scatter_reduce(0, self._span_of, confidence, "amax")
        self._doubt = torch.where(best.isneginf(), -torch.inf, -best)
        self._round += 1
        self.masked = self._next_masked()

    def _next_masked(self) -> Tensor:
        """The frames [T] to predict in the current round: those of the most doubtful spans."""
        if self.done:
            return torch.zeros_like(self._known)
        count = max(1, int(self._shares[self._round] * self._num_open))
        order = self._doubt.sort(descending=True, stable=True).indices[:count]
        chosen = torch.zeros_like(self._doubt, dtype=torch.bool)
        chosen[order] = True
        return chosen[self._span_of] & ~self._known


def annealed_temperature(settings: Unmasking, rounds: Rounds, num_rounds: int) -> float:
    """The temperature of the current round; 0 if it is greedy."""
    if not settings.temperature or not settings.anneal_temperature:
        return settings.temperature
    return max(COOLEST, settings.temperature * rounds.rounds_left / num_rounds)


def annealed_guidance(settings: Unmasking, share: float) -> Unmasking:
    """The settings with the guidance scale of a round that masks this share."""
    final, scale = settings.final_guidance_scale, settings.guidance_scale
    if final is None:
        return settings
    if isinstance(scale, Mapping):
        scales = {name: share * one + (1 - share) * final for name, one in scale.items()}
        return replace(settings, guidance_scale=scales)
    return replace(settings, guidance_scale=share * scale + (1 - share) * final)


def predict(
    logits: Tensor, uniforms: Tensor, settings: Unmasking, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Tokens [n] from logits [n, V] and random numbers [n], and the probability of each.

    The probability is that at this temperature before any truncation; at temperature 1 if greedy.
    """
    plain = Sampling(
        temperature=temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
    )
    tensors = sampling_tensors([plain], num_codebooks=len(logits), device=logits.device)
    tokens = choose(logits[None], uniforms[None], tensors)[0]
    probabilities = torch.softmax(logits / (temperature or 1.0), dim=-1)
    return tokens, probabilities.gather(1, tokens[:, None])[:, 0]


def rounds_of(settings: Unmasking, num_codebooks: int) -> Sequence[int]:
    """The number of rounds of each codebook."""
    if not isinstance(settings.steps, tuple):
        return [settings.steps] * num_codebooks
    if len(settings.steps) != num_codebooks:
        raise ValueError(
            f"Expected one number of steps, or {num_codebooks}, one per codebook, got "
            f"{len(settings.steps)}."
        )
    return settings.steps
