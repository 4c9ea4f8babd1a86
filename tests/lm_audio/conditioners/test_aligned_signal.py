"""Values of another rate at the times of frames: against scipy, in windows, and their noise."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly
from torch import Tensor

from lm_audio.conditioners.aligned_signal import (
    LOBES,
    AlignedSignal,
    LevelConditioner,
    augmented,
)
from lm_audio.conditioners.fuser import Conditioners
from lm_audio.conditioners.tokens import AlignedTokens

RATIOS = [Fraction(1, 5), Fraction(2, 3), Fraction(1, 160), Fraction(3, 7), Fraction(1)]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def kernel(distance: np.ndarray) -> np.ndarray:
    """A sinc with 95 % of the band under a Kaiser window, at distances in values."""
    window = np.where(np.abs(distance) < LOBES, 1 - (distance / LOBES) ** 2, 0)
    shape = np.i0(8 * np.sqrt(window)) / np.i0(8) * (np.abs(distance) < LOBES)
    return 0.95 * np.sinc(0.95 * distance) * shape


@pytest.mark.parametrize("ratio", RATIOS)
def test_values_are_interpolated_as_scipy_does_with_the_same_filter(ratio: Fraction) -> None:
    values = noise(2, 120)
    up, down = ratio.denominator, ratio.numerator
    taps = kernel(np.arange(-LOBES * up, LOBES * up + 1) / up)
    expected = resample_poly(values.numpy(), up, down, axis=1, window=taps / up)
    if up == down:  # scipy returns its input
        expected = np.stack([np.convolve(row, taps, "same") for row in values.numpy()])
    made = AlignedSignal(2, ratio=ratio)([values])
    assert made.shape == (1, -(-120 * up // down), 2)
    np.testing.assert_allclose(made[0].T, expected, atol=2e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_window_needs_the_values_of_its_span_only(ratio: Fraction) -> None:
    signal, values = AlignedSignal(2, ratio=ratio), noise(2, 150)
    whole = signal([values])[0]
    for start, stop in ((0, 5), (7, 8), (len(whole) // 2, len(whole) // 2 + 23)):
        stop = min(stop, len(whole))
        first, last = signal.span(start, stop)
        first = max(first, 0)
        part = signal([values[:, first:last]], frames=torch.arange(start, stop), first=first)
        torch.testing.assert_close(part[0], whole[start:stop], atol=1e-6, rtol=0)
        fewer = values[:, first : last - 2]
        less = signal([fewer], frames=torch.arange(start, stop), first=first)
        assert not torch.equal(less, part)


def test_a_slow_wave_keeps_its_shape() -> None:
    signal = AlignedSignal(1, ratio=Fraction(1, 5))
    time = torch.arange(200, dtype=torch.float64)
    made = signal([torch.sin(0.3 * time)[None]])[0, :, 0]
    expected = torch.sin(0.06 * torch.arange(1000, dtype=torch.float64))
    torch.testing.assert_close(made[100:-100].double(), expected[100:-100], atol=1e-3, rtol=0)


def test_none_is_silence_and_rows_are_apart() -> None:
    signal = AlignedSignal(3, ratio=Fraction(1, 2))
    one, other = noise(3, 10), noise(3, 7) + 1
    made = signal([one, None, other], frames=torch.arange(20).expand(3, -1))
    assert made.shape == (3, 20, 3)
    assert not made[1].any()
    for row, value in ((0, one), (2, other)):
        assert torch.equal(made[row], signal([value], frames=torch.arange(20))[0])
    assert signal([None]).shape == (1, 1, 3)


def test_noise_keeps_the_power() -> None:
    values, added = noise(1, 20_000), torch.randn(1, 20_000)
    assert torch.equal(augmented(values, added, 0.0), values)
    torch.testing.assert_close(augmented(values, added, 1.0), added, atol=1e-6, rtol=1e-6)
    half = augmented(values, added, 0.5)
    torch.testing.assert_close(half, 0.5**0.5 * (values + added))


def test_a_level_is_itself_or_the_default() -> None:
    level = LevelConditioner(most=0.5, default=0.1)
    made = level([None, 0.0, 0.5])
    assert made.embeddings[:, 0, 0].tolist() == pytest.approx([0.1, 0.0, 0.5])
    assert made.mask.all()


def test_conditioners_stack_signals_along_their_channels() -> None:
    parts = {"low": AlignedSignal(1, ratio=1), "mel": AlignedSignal(2, ratio=Fraction(1, 4))}
    conditioners = Conditioners(parts, {"low": "stack", "mel": "stack"})
    low, mel = noise(1, 8), noise(2, 2)
    fused = conditioners({"low": [low], "mel": [mel]})
    assert fused.stacked is not None
    assert torch.equal(fused.stacked, torch.cat([parts["low"]([low]), parts["mel"]([mel])], dim=2))


def test_mistakes_get_one_sentence() -> None:
    for wrong, sentence in (
        ({"dim": 0, "ratio": 1}, "dim must be at least 1, got 0"),
        ({"dim": 1, "ratio": Fraction(3, 2)}, "ratio must be a Fraction above 0 and at most 1"),
        ({"dim": 1, "ratio": 0.5}, "ratio must be a Fraction above 0 and at most 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            AlignedSignal(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Expected values \[2, T\], got \[1, 5\]"):
        AlignedSignal(2, ratio=1)([noise(1, 5)])
    with pytest.raises(ValueError, match="0 <= default <= most <= 1"):
        LevelConditioner(most=0.5, default=0.6)
    for value in (0.6, -0.1, float("nan"), "x", True):
        with pytest.raises(ValueError, match=r"Expected a noise level from 0 to 0\.5, or None"):
            LevelConditioner(most=0.5)([value])  # type: ignore[list-item]
    signal = AlignedSignal(1, ratio=1)
    with pytest.raises(ValueError, match="'low' must be an AlignedSignal to be stacked"):
        Conditioners({"low": signal}, {"low": "cross"})
    tokens = AlignedTokens(3, 4, look_ahead=0, ratio=1)
    with pytest.raises(ValueError, match=r"'tokens' is aligned with frames\. Use 'sum'"):
        Conditioners({"tokens": tokens}, {"tokens": "stack"})
