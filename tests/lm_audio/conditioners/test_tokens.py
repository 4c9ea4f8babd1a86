"""Tokens of an earlier stage, against loops over single tokens."""

from fractions import Fraction
from itertools import groupby
from math import floor

import pytest
import torch
from torch import Tensor

from lm_audio.conditioners.tokens import NO_TOKEN, AlignedTokens, TokenConditioner

RATIOS = [Fraction(1, 3), Fraction(1), Fraction(1, 2), Fraction(2), Fraction(75, 86)]


def random_tokens(*shape: int, high: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_tokens_are_embedded_frame_by_frame(num_codebooks: int, deduplicate: bool) -> None:
    conditioner = TokenConditioner(
        2, 4, num_codebooks=num_codebooks, deduplicate=deduplicate, null="none"
    )
    values = [random_tokens(num_codebooks, T, high=2, seed=T) for T in (1, 20, 7)]

    condition = conditioner(values)

    for embeddings, mask, tokens in zip(condition.embeddings, condition.mask, values, strict=True):
        frames = tokens.T.tolist()
        if deduplicate:
            frames = [frame for frame, _ in groupby(frames)]
            assert tokens.shape[1] < 20 or len(frames) < 20
        rows = [2 * k + token for frame in frames for k, token in enumerate(frame)]
        assert torch.equal(embeddings[mask], conditioner.embedding.weight[rows])


def test_no_tokens_give_the_null_even_of_no_length() -> None:
    learned = TokenConditioner(5, 4)
    assert torch.equal(learned([None]).embeddings[0], learned.null.embedding)

    none = TokenConditioner(5, 4, null="none")
    condition = none([None, torch.tensor([[3, 1]])])
    assert condition.mask.tolist() == [[False, False], [True, True]]


def naive_frame(aligned: AlignedTokens, tokens: list[int], frame: int) -> Tensor:
    first = floor(Fraction(frame) * aligned.ratio)
    x = torch.zeros(aligned.dim)
    for i in range(aligned.look_ahead + 1):
        known = 0 <= first + i < len(tokens)
        token = tokens[first + i] if known else aligned.num_tokens
        x = x + aligned.embedding.weight[i * (aligned.num_tokens + 1) + token]
    return x


@pytest.mark.parametrize("look_ahead", [0, 1, 4])
@pytest.mark.parametrize("ratio", RATIOS)
def test_aligned_frames_are_those_of_a_loop(ratio: Fraction, look_ahead: int) -> None:
    aligned = AlignedTokens(6, 3, look_ahead=look_ahead, ratio=ratio)
    values = [random_tokens(1, 9, high=6), None, random_tokens(1, 4, high=6)]

    with torch.no_grad():
        x = aligned(values)

        T = len([t for t in range(100) if floor(t * ratio) < 9])
        assert x.shape == (3, T, 3)
        for row, value in zip(x, values, strict=True):
            tokens = [] if value is None else value[0].tolist()
            expected = torch.stack([naive_frame(aligned, tokens, t) for t in range(T)])
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("ratio", RATIOS)
def test_any_frame_alone_is_what_it_is_among_all(ratio: Fraction) -> None:
    aligned = AlignedTokens(6, 5, look_ahead=2, ratio=ratio)
    tokens = random_tokens(2, 9, high=6)
    whole = aligned.frames(tokens, torch.arange(-3, 40))

    for i, frame in enumerate(range(-3, 40)):
        alone = aligned.frames(tokens, torch.tensor([frame]))
        assert torch.equal(alone, whole[:, i : i + 1])
        expected = torch.stack([naive_frame(aligned, row, frame) for row in tokens.tolist()])
        torch.testing.assert_close(alone[:, 0], expected, rtol=0, atol=1e-6)
    of_each_row = aligned.frames(tokens, torch.tensor([[4, 5], [-1, 30]]))
    assert torch.equal(of_each_row, torch.stack([whole[0, [7, 8]], whole[1, [2, 33]]]))


@pytest.mark.parametrize("look_ahead", [0, 3])
@pytest.mark.parametrize("ratio", RATIOS)
def test_a_frame_needs_just_the_tokens_it_says(ratio: Fraction, look_ahead: int) -> None:
    aligned = AlignedTokens(6, 5, look_ahead=look_ahead, ratio=ratio)
    tokens = random_tokens(1, 60, high=6)

    for frame in range(20):
        needed = aligned.num_source_needed(frame)
        chosen = torch.tensor([frame])
        whole = aligned.frames(tokens, chosen)
        assert torch.equal(aligned.frames(tokens[:, :needed], chosen), whole)
        assert not torch.equal(aligned.frames(tokens[:, : needed - 1], chosen), whole)


def test_alignment_does_not_drift_over_days() -> None:
    aligned = AlignedTokens(6, 5, look_ahead=0, ratio=Fraction(25, 75))
    frame = 75 * 3600 * 24 * 10

    assert aligned.num_source_needed(frame) == 25 * 3600 * 24 * 10 + 1
    assert aligned.num_source_needed(frame - 1) == 25 * 3600 * 24 * 10
    assert aligned.num_frames(25 * 3600 * 24 * 10) == frame


def test_dropped_tokens_are_all_null_rows() -> None:
    aligned = AlignedTokens(6, 5, look_ahead=1, ratio=1)
    null = aligned.embedding.weight[6] + aligned.embedding.weight[13]

    assert torch.equal(aligned([None, None]), null.expand(2, 1, 5))
    assert torch.equal(aligned([None], frames=torch.arange(4)), null.expand(1, 4, 5))
    padded = torch.tensor([[2, NO_TOKEN, NO_TOKEN]])
    assert torch.equal(aligned.frames(padded, torch.tensor([1])), null.expand(1, 1, 5))


def test_bad_tokens_are_refused() -> None:
    prefix = TokenConditioner(6, 5, num_codebooks=2)
    aligned = AlignedTokens(6, 5, look_ahead=1, ratio=1)

    for tokens in (torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.int64), [[1]], "a"):
        with pytest.raises(ValueError, match=r"Expected int64 tokens \[2, T\] with T >= 1"):
            prefix([tokens])
    for tokens in (torch.zeros(1, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"Expected int64 tokens \[1, T\] with T >= 1"):
            aligned([tokens])
    for token in (-1, 6):
        with pytest.raises(ValueError, match=rf"must be between 0 and 5, got {token} to {token}"):
            aligned([torch.tensor([[token]])])
        with pytest.raises(ValueError, match=rf"must be between 0 and 5, got {token} to {token}"):
            prefix([torch.tensor([[token], [token]])])


def test_settings_without_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match="num_codebooks must be at least 1, got 0"):
        TokenConditioner(6, 5, num_codebooks=0)
    with pytest.raises(ValueError, match="num_tokens must be at least 1, got 0"):
        AlignedTokens(0, 5, look_ahead=1, ratio=1)
    with pytest.raises(ValueError, match="look_ahead must be at least 0, got -1"):
        AlignedTokens(6, 5, look_ahead=-1, ratio=1)
    for ratio in (25 / 75, 0, Fraction(-1, 2)):
        with pytest.raises(ValueError, match="ratio must be a positive Fraction or int"):
            AlignedTokens(6, 5, look_ahead=1, ratio=ratio)  # type: ignore[arg-type]
