"""From rendered samples to a clip: loudness, seam and peaks together."""

import numpy as np
import pytest
import torch
from torch import Tensor

from lm_audio.renderers.limiter import CEILING
from lm_audio.renderers.mastering import Mastering, fill_span
from lm_audio.renderers.seam import continued, inpainted

RATE = 24_000
PROMPT = 2 * RATE


def tone(seconds: float, amplitude: float) -> Tensor:
    n = np.arange(round(seconds * RATE))
    return torch.from_numpy((amplitude * np.sin(2 * np.pi * 220 * n / RATE)).astype(np.float32))[
        None
    ]


def hiss(seconds: float, amplitude: float) -> Tensor:
    rng = np.random.default_rng(0)
    samples = amplitude * rng.standard_normal(round(seconds * RATE))
    return torch.from_numpy(samples.astype(np.float32))[None]


def mastered(
    rendered: Tensor, *, prompt: Tensor | None = None, piece: int = 10**9, raw: bool = False
) -> Tensor:
    tail = 0 if prompt is None else prompt.shape[1]
    mastering = Mastering(
        RATE, num_channels=len(rendered), prompt=prompt, prompt_tail=tail, raw=raw
    )
    parts = [mastering.push(part) for part in rendered.split(piece, dim=1)]
    return torch.cat([*parts, mastering.finish()], dim=1)


def level(samples: Tensor) -> float:
    return float(10 * samples.square().mean().log10())


@pytest.mark.parametrize("make", [tone, hiss])
@pytest.mark.parametrize("error", [-18.0, -6.0, 0.0, 6.0, 18.0])
def test_a_rendering_at_another_level_continues_at_that_of_the_prompt(make, error: float) -> None:
    whole = make(5.0, 0.1)
    prompt = whole[:, :PROMPT]
    new = mastered(whole * 10 ** (error / 20), prompt=prompt)
    assert new.shape == (1, 3 * RATE)
    half = RATE // 2
    step = level(new[:, :half]) - level(prompt[:, -half:])
    assert abs(step) < 1


def test_the_seam_of_a_tone_does_not_click() -> None:
    whole = tone(5.0, 0.3)
    prompt = whole[:, :PROMPT]
    new = mastered(whole * 0.1, prompt=prompt)
    joined = torch.cat([prompt, new], dim=1)
    steps = joined.diff(dim=1).abs()[0]
    assert steps[PROMPT - 50 : PROMPT + 50].max() < 1.1 * steps[: PROMPT - 100].max()


def test_new_sound_may_peak_as_high_as_its_prompt_and_no_higher() -> None:
    prompt = tone(2.0, 0.99)
    peaks = mastered(torch.cat([prompt, tone(1.0, 0.99), tone(1.0, 5.0)], dim=1), prompt=prompt)
    assert CEILING < peaks.abs().max() <= 0.99


@pytest.mark.parametrize("piece", [333, 24_000])
@pytest.mark.parametrize("with_prompt", [False, True])
def test_pieces_change_nothing(piece: int, with_prompt: bool) -> None:
    rendered = torch.cat([hiss(2.5, 0.02), tone(1.0, 2.0)], dim=1)
    prompt = hiss(2.0, 0.1) if with_prompt else None
    whole = mastered(rendered, prompt=prompt)
    assert torch.equal(mastered(rendered, prompt=prompt, piece=piece), whole)


def test_raw_samples_keep_their_level() -> None:
    rendered, prompt = tone(4.0, 3.0), tone(2.0, 0.1)
    assert torch.equal(mastered(rendered, raw=True), rendered)
    joined = torch.cat([prompt, mastered(rendered, prompt=prompt, raw=True)], dim=1)
    assert torch.equal(joined, continued(prompt, rendered, sample_rate=RATE))


@pytest.mark.parametrize("start", [0, RATE // 100, RATE])
def test_a_filled_span_takes_the_level_beside_it(start: int) -> None:
    samples = hiss(4.0, 0.1)
    end = start + RATE
    filled = fill_span(samples, samples * 8, start=start, end=end, sample_rate=RATE, raw=False)
    assert torch.equal(filled[:, :start], samples[:, :start])
    assert torch.equal(filled[:, end:], samples[:, end:])
    assert abs(level(filled[:, start:end]) - level(samples)) < 1


def test_a_raw_span_is_filled_as_rendered() -> None:
    samples, rendered = hiss(4.0, 0.1), tone(4.0, 2.0)
    filled = fill_span(samples, rendered, start=RATE, end=2 * RATE, sample_rate=RATE, raw=True)
    expected = inpainted(samples, rendered, start=RATE, end=2 * RATE, sample_rate=RATE)
    assert torch.equal(filled, expected)
