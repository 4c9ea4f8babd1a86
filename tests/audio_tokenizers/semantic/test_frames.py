from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from audio_tokenizers.semantic.frames import (
    deduplicate,
    deduplicate_batch,
    expand_durations,
    pool_frames,
)


@given(st.integers(1, 40), st.integers(1, 7))
def test_pooling_averages_each_group_and_the_frames_left_over(num_frames: int, factor: int) -> None:
    features = torch.randn(2, num_frames, 3, generator=torch.Generator().manual_seed(num_frames))
    expected = torch.stack([group.mean(1) for group in features.split(factor, dim=1)], dim=1)
    torch.testing.assert_close(pool_frames(features, factor), expected)


@given(st.lists(st.integers(0, 3), max_size=50))
def test_deduplication_finds_the_runs_and_durations_restore_the_tokens(tokens: list[int]) -> None:
    tensor = torch.tensor(tokens, dtype=torch.int64)
    unique, durations = deduplicate(tensor)
    runs = [(token, len(list(run))) for token, run in groupby(tokens)]
    assert list(zip(unique.tolist(), durations.tolist(), strict=True)) == runs
    assert unique.dtype == durations.dtype == torch.int64
    assert torch.equal(expand_durations(unique, durations), tensor)


def test_rows_of_a_batch_are_deduplicated_apart() -> None:
    tokens = torch.tensor([[1, 1, 2], [2, 2, 2]])
    found = [[part.tolist() for part in row] for row in deduplicate_batch(tokens)]
    assert found == [[[1, 2], [2, 1]], [[2], [3]]]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="a pooling factor of 0; expected 1 or more"):
        pool_frames(torch.zeros(1, 2, 3), 0)
    with pytest.raises(ValueError, match=r"shape \[2, 3\]; expected \[B, T, D\]"):
        pool_frames(torch.zeros(2, 3), 2)
    with pytest.raises(ValueError, match=r"shape \[1, 3\]; expected \[T\]"):
        deduplicate(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"shape \[1, 1, 3\]; expected \[B, T\]"):
        deduplicate_batch(torch.zeros(1, 1, 3))
    with pytest.raises(ValueError, match=r"durations of shape \[3\]; expected \[S\]"):
        expand_durations(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="Got a duration of -1; expected 0 or more"):
        expand_durations(torch.zeros(2), torch.tensor([1, -1]))
