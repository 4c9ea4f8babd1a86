"""Stacked rows and nulls."""

import pytest
import torch

from lm_audio.conditioners.condition import Null
from lm_audio.networks.condition import stack


def test_rows_of_any_length_are_padded_with_zeros_at_the_end() -> None:
    rows = [torch.randn(length, 3) for length in (2, 0, 4)]

    condition = stack(rows)

    assert condition.embeddings.shape == (3, 4, 3)
    assert condition.mask.dtype == torch.bool
    for embeddings, mask, row in zip(condition.embeddings, condition.mask, rows, strict=True):
        assert mask.tolist() == [True] * len(row) + [False] * (4 - len(row))
        assert torch.equal(embeddings[: len(row)], row)
        assert not embeddings[len(row) :].any()


def test_rows_that_are_all_empty_make_a_condition_of_length_zero() -> None:
    condition = stack([torch.zeros(0, 3), torch.zeros(0, 3)])

    assert condition.embeddings.shape == (2, 0, 3)
    assert condition.mask.shape == (2, 0)


def test_nulls_are_zero_learned_or_nothing() -> None:
    zero, learned, none = Null("zero", 3), Null("learned", 3), Null("none", 3)

    assert torch.equal(zero.embedding, torch.zeros(1, 3))
    assert none.embedding.shape == (0, 3)
    assert learned.embedding.shape == (1, 3)
    assert learned.embedding.any()
    assert [len(list(null.parameters())) for null in (zero, learned, none)] == [0, 1, 0]
    assert [len(null.state_dict()) for null in (zero, learned, none)] == [0, 1, 0]


def test_an_unknown_null_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"Unknown null 'one'\. Choose one of: zero, zeros, learned, none"
    ):
        Null("one", 3)  # type: ignore[arg-type]
