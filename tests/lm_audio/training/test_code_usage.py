import pytest
import torch

from lm_audio.training.code_usage import code_usage


def test_equally_frequent_codes_have_their_number_as_perplexity() -> None:
    usage = code_usage(torch.tensor([[5, 5, 5, 5, 0, 0, 0, 0]]))
    assert usage.used == 0.5
    assert usage.perplexity == pytest.approx(4)


def test_usage_is_the_mean_over_codebooks() -> None:
    usage = code_usage(torch.tensor([[7, 7, 0, 0], [9, 0, 0, 0]]))
    assert usage.used == pytest.approx((0.5 + 0.25) / 2)
    assert usage.perplexity == pytest.approx((2 + 1) / 2)


def test_unlike_frequencies_have_the_exponential_of_their_entropy() -> None:
    assert code_usage(torch.tensor([[3, 1]])).perplexity == pytest.approx(
        torch.tensor([0.75, 0.25]).pow(-torch.tensor([0.75, 0.25])).prod().item()
    )
