"""Rates, use and entropy of codebooks in closed form."""

import math

import pytest
import torch

from lm_audio.evaluation.metrics.codebooks import bitrate, count_tokens


def test_use_of_codebooks_in_closed_form() -> None:
    tokens = [
        torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]]),
        torch.tensor([[0, 1, 2, 3], [5, 5, 6, 6]]),
    ]
    use = count_tokens(tokens, codebook_size=8)
    assert use.used_share.tolist() == [0.5, 0.25]
    assert use.entropy[0].item() == pytest.approx(2.0)
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert use.entropy[1].item() == pytest.approx(expected)
    assert use.perplexity[0].item() == pytest.approx(4.0)


def test_audiolm_has_6_kb_a_second() -> None:
    assert bitrate(frame_rate=50, num_codebooks=12, codebook_size=1024) == 6000


def test_no_tokens_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="No tokens to count"):
        count_tokens([], codebook_size=8)
