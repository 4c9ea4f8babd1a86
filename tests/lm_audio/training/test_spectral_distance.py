"""The energy score is smallest for the truth, and does not make noise shrink as a distance does."""

import pytest
import torch

from lm_audio.training.spectral_distance import SpectralConfig, distance, energy_score, spectra

CONFIG = SpectralConfig(sample_rate=24_000)


def noise(seed: int, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(4, 24_000, generator=torch.Generator().manual_seed(seed))


def test_magnitudes_equal_torch_stft() -> None:
    samples = noise(0)
    config = SpectralConfig(sample_rate=24_000, window_lengths=(512,))
    magnitude = spectra(samples, config)[0][1].exp() - 1e-3
    expected = torch.stft(
        samples, 512, 128, window=torch.hann_window(512), center=False, return_complex=True
    )
    expected = expected.abs().transpose(1, 2) * 4 / 512**0.5
    torch.testing.assert_close(magnitude, expected, atol=1e-3, rtol=1e-3)


def test_the_score_of_two_equal_answers_is_their_distance() -> None:
    truth, answer = noise(0), noise(1)
    expected = distance(spectra(answer, CONFIG), spectra(truth, CONFIG))
    torch.testing.assert_close(energy_score(truth, (answer, answer), CONFIG), expected)


def test_the_score_of_one_answer_is_its_distance_and_of_three_the_mean_over_pairs() -> None:
    truth, *answers = (noise(seed, 0.1 + 0.1 * seed) for seed in range(4))
    one = distance(spectra(answers[0], CONFIG), spectra(truth, CONFIG))
    torch.testing.assert_close(energy_score(truth, answers[:1], CONFIG), one)
    pairs = [
        energy_score(truth, (answers[i], answers[j]), CONFIG) for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    torch.testing.assert_close(energy_score(truth, answers, CONFIG), torch.stack(pairs).mean())


def test_segments_shorter_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Got segments of 2000 samples, shorter than .* 2048"):
        spectra(noise(0)[:, :2000], CONFIG)


def test_the_distance_is_zero_for_equals_and_symmetric() -> None:
    a, b = spectra(noise(0), CONFIG), spectra(noise(1, 0.3), CONFIG)
    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a) > 0


def test_noise_of_the_right_level_scores_best_where_the_distance_alone_prefers_less() -> None:
    truth = noise(0)
    levels = [0.05, 0.07, 0.1, 0.14, 0.2]
    scores = [
        energy_score(truth, (noise(1, level), noise(2, level)), CONFIG).item() for level in levels
    ]
    assert min(scores) == scores[2]
    # One steady answer, a spectrum without fluctuation, has the smaller plain distance ...
    impulses = torch.zeros(4, 24_000)
    impulses[:, ::64] = 0.1 * 8
    steady = energy_score(truth, (impulses, impulses), CONFIG)
    assert steady > scores[2]


def test_gradients_are_finite_for_silence() -> None:
    answer = torch.zeros(1, 24_000, requires_grad=True)
    energy_score(torch.zeros(1, 24_000), (answer, answer * 1.0), CONFIG).backward()
    assert answer.grad is not None
    assert answer.grad.isfinite().all()
