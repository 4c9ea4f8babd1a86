"""Patterns against a plain walk through the sequence, and their inverses.

The orders in `test_patterns_have_the_published_orders` were printed by audiocraft 1.3's providers,
without their empty first step and empty last steps.
"""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_audio import patterns
from lm_audio.patterns import Pattern, coarse_first, delayed, flattened, parallel, stereo, unrolled

EMPTY = 9999


def walk(pattern, T):
    """The (codebook, frame) pairs of each step, one step after the other."""
    K, delays = pattern.num_codebooks, pattern.delays
    if pattern.kind == "delayed":
        S = T + max(delays)
        return [[(k, s - delays[k]) for k in range(K) if 0 <= s - delays[k] < T] for s in range(S)]
    if pattern.kind == "coarse_first":
        first = range(pattern.group_size)
        rest = delayed(delays or [0])
        coarse = [[(k, t) for k in first] for t in range(T)]
        fine = [[(k + len(first), t) for k, t in cells] for cells in walk(rest, T)]
        return coarse + (fine if len(first) < K else [])
    if pattern.kind == "flattened":
        size = pattern.group_size
        groups = [range(first, min(first + size, K)) for first in range(0, K, size)]
        return [[(k, t)] for group in groups for t in range(T) for k in group]
    steps = []
    for round_ in range(T + max(delays)):
        turns = sorted(
            {(round_ - d, turn) for d, turn in zip(delays, pattern.flattening, strict=True)}
        )
        for t, turn in turns:
            group = [k for k in range(K) if pattern.flattening[k] == turn]
            if t >= 0:
                steps.append([(k, t) for k in group if t < T])
    while not steps[-1]:
        steps.pop()
    return steps


def naive_build(pattern, tokens, empty):
    B, _, T = tokens.shape
    steps = walk(pattern, T)
    sequence = [[[empty] * len(steps) for _ in range(pattern.num_streams)] for _ in range(B)]
    values = tokens.tolist()
    for b in range(B):
        for s, cells in enumerate(steps):
            for k, t in cells:
                token = values[b][k][t]
                if pattern.codebook_size is None:
                    sequence[b][k][s] = token
                else:
                    sequence[b][0][s] = token if token < 0 else token + k * pattern.codebook_size
    return torch.tensor(sequence)


def patterns_of(K):
    turns = [k // 2 for k in range(K)]
    return [
        parallel(K),
        delayed(range(K)),
        delayed([3 * k % 5 for k in range(K)]),
        unrolled(range(K)),
        unrolled([0] + [1] * (K - 1)),
        unrolled(turns, [2 * turn % 3 for turn in turns]),
        coarse_first(K),
        coarse_first(K, range(K - 1)),
        flattened(K, codebook_size=1024),
        flattened(K, codebook_size=10, group_size=min(3, K)),
        flattened(K, codebook_size=None, group_size=min(2, K)),
    ]


def some_tokens(K, T, *, seed=0, B=2):
    return torch.randint(-1, 10, (B, K, T), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("K", range(1, 33))
@pytest.mark.parametrize("T", [1, 2, 7, 72])
def test_building_equals_a_walk_over_the_cells_and_reverting_undoes_it(K, T):
    tokens = some_tokens(K, T)
    for pattern in patterns_of(K):
        layout = pattern.layout(T)
        sequence = layout.build(tokens, empty=EMPTY)
        assert torch.equal(sequence, naive_build(pattern, tokens, EMPTY)), pattern
        assert torch.equal(layout.revert(sequence), tokens), pattern


@st.composite
def any_pattern(draw):
    K = draw(st.integers(1, 32))
    delays = st.integers(0, 6)
    kind = draw(st.sampled_from(["delayed", "unrolled", "coarse_first", "flattened"]))
    if kind == "delayed":
        return delayed(draw(st.lists(delays, min_size=K, max_size=K)))
    if kind == "coarse_first":
        return coarse_first(K, draw(st.lists(delays, min_size=K - 1, max_size=K - 1)))
    if kind == "flattened":
        size = draw(st.sampled_from([None, 10, 1024]))
        return flattened(K, codebook_size=size, group_size=draw(st.integers(1, K)))
    num_turns = draw(st.integers(1, min(K, 4)))
    turns = draw(st.permutations([k % num_turns for k in range(K)]))
    lags = draw(st.lists(delays, min_size=num_turns, max_size=num_turns))
    return unrolled(turns, [lags[turn] for turn in turns])


@given(pattern=any_pattern(), T=st.integers(1, 72), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_pattern_is_the_walk_and_has_an_inverse(pattern, T, seed):
    tokens = some_tokens(pattern.num_codebooks, T, seed=seed, B=1)
    layout = pattern.layout(T)
    sequence = layout.build(tokens, empty=EMPTY)
    assert torch.equal(sequence, naive_build(pattern, tokens, EMPTY))
    assert torch.equal(layout.revert(sequence), tokens)


@pytest.mark.parametrize(
    ("pattern", "T", "order"),
    [
        (parallel(2), 3, "00+10 01+11 02+12"),
        (delayed([0, 1, 2]), 3, "00 01+10 02+11+20 12+21 22"),
        (unrolled([0, 1, 1]), 2, "00 10+20 01 11+21"),
        (unrolled([0, 1, 1], [0, 2, 2]), 3, "00 01 10+20 02 11+21 - 12+22"),
        (coarse_first(3), 2, "00 01 10+20 11+21"),
        (coarse_first(3, [0, 1]), 2, "00 01 10 11+20 21"),
        (flattened(4, codebook_size=None, group_size=2), 2, "00 10 01 11 20 30 21 31"),
        (flattened(4, codebook_size=9, group_size=2), 2, "00 10 01 11 20 30 21 31"),
    ],
)
def test_patterns_have_the_published_orders(pattern, T, order):
    layout = pattern.layout(T)
    cells = torch.stack([layout.codebook, layout.frame], 2).transpose(0, 1).tolist()
    steps = ["+".join(f"{k}{t}" for k, t in step if k >= 0) or "-" for step in cells]
    assert " ".join(steps) == order


@pytest.mark.parametrize("K", [1, 3, 4])
def test_frames_are_complete_once_all_their_cells_are_there(K):
    for pattern in patterns_of(K):
        layout = pattern.layout(6)
        seen = set()
        assert layout.complete_frames(0) == 0
        for s, cells in enumerate(walk(pattern, 6)):
            seen.update(cells)
            full = [all((k, t) in seen for k in range(K)) for t in range(6)]
            assert layout.complete_frames(s + 1) == [*full, False].index(False), pattern


def test_a_shared_stream_adds_the_start_of_the_codebooks_range():
    layout = flattened(3, codebook_size=100).layout(2)
    assert layout.offset.tolist() == [[0, 100, 200, 0, 100, 200]]
    tokens = torch.tensor([[[1, 2], [3, -1], [5, 6]]])
    assert layout.build(tokens, empty=EMPTY).tolist() == [[[1, 103, 205, 2, -1, 206]]]


def test_stereo_puts_both_channels_of_a_codebook_at_the_same_place():
    assert stereo(delayed([0, 1, 2, 3])) == delayed([0, 0, 1, 1, 2, 2, 3, 3])
    assert stereo(unrolled([0, 1], [0, 2])) == unrolled([0, 0, 1, 1], [0, 0, 2, 2])
    mono = coarse_first(3, [0, 1]).layout(5)
    both = stereo(coarse_first(3, [0, 1])).layout(5)
    assert torch.equal(both.step, mono.step.repeat_interleave(2, 0))


def test_stereo_in_a_shared_stream_goes_left_then_right():
    pattern = stereo(flattened(2, codebook_size=10, group_size=1))
    left_right = torch.tensor([[[0, 1], [2, 3], [4, 5], [6, 7]]])
    sequence = pattern.layout(2).build(left_right, empty=EMPTY)
    assert sequence.tolist() == [[[0, 12, 1, 13, 24, 36, 25, 37]]]


def test_channels_are_interleaved_and_split_again():
    tokens = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    mixed = patterns.interleave_channels(tokens)
    left, right = tokens[0]
    assert torch.equal(
        mixed[0], torch.stack([left[0], right[0], left[1], right[1], left[2], right[2]])
    )
    assert torch.equal(patterns.split_channels(mixed, 2), tokens)


@pytest.mark.parametrize("pattern", patterns_of(4), ids=lambda pattern: pattern.kind)
def test_a_pattern_survives_json(pattern):
    again = Pattern(**json.loads(json.dumps(dataclasses.asdict(pattern))))
    assert again == pattern
    assert hash(again) == hash(pattern)


def test_a_layout_is_made_once_and_long_ones_are_made_at_all():
    pattern = flattened(8, codebook_size=1024, group_size=4)
    layout = pattern.layout(15_000)
    assert layout is flattened(8, codebook_size=1024, group_size=4).layout(15_000)
    assert (layout.num_streams, layout.num_steps, layout.num_frames) == (1, 120_000, 15_000)
    assert layout.complete_frames(120_000) == 15_000


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: delayed([0, -1]), r"Expected 2 non-negative delays.* got \[0, -1\]"),
        (lambda: delayed([]), "A pattern needs at least 1 codebook, got 0"),
        (lambda: parallel(0), "A pattern needs at least 1 codebook, got 0"),
        (lambda: coarse_first(3, [0, 1, 2]), r"Expected 2 non-negative delays.* got \[0, 1, 2\]"),
        (lambda: unrolled([0, 1], [0]), r"Expected 2 non-negative delays.* got \[0\]"),
        (lambda: unrolled([0, 2]), r"Expected a flattening of 2 values.* got \[0, 2\]"),
        (lambda: unrolled([-1, 0]), r"Expected a flattening of 2 values.* got \[-1, 0\]"),
        (lambda: unrolled([0, 0], [0, 1]), "Codebooks in the same step need the same delay"),
        (
            lambda: flattened(3, codebook_size=8, group_size=4),
            "group_size must be between 1 and 3, .* got 4",
        ),
        (lambda: flattened(3, codebook_size=0), "codebook_size must be at least 1, or None, got 0"),
        (
            lambda: Pattern(kind="zigzag", num_codebooks=1),
            "Unknown pattern 'zigzag'. Choose one of",
        ),
        (
            lambda: Pattern(kind="delayed", num_codebooks=1, delays=(0,), codebook_size=4),
            "A 'delayed' pattern has no codebook_size",
        ),
        (lambda: parallel(2).layout(0), "Expected at least 1 frame, got 0"),
    ],
)
def test_an_impossible_pattern_says_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            lambda x: x.build(torch.zeros(1, 3, 5), empty=0),
            r"tokens of shape \[B, 2, 5\] for this layout, got \[1, 3, 5\]",
        ),
        (
            lambda x: x.build(torch.zeros(2, 5), empty=0),
            r"tokens of shape \[B, 2, 5\] for this layout, got \[2, 5\]",
        ),
        (
            lambda x: x.revert(torch.zeros(1, 1, 9)),
            r"a sequence of shape \[B, 1, 10\] for this layout, got \[1, 1, 9\]",
        ),
        (lambda x: x.complete_frames(11), "num_steps must be between 0 and 10, .* got 11"),
        (
            lambda _: patterns.interleave_channels(torch.zeros(2, 3, 4)),
            r"Expected tokens of shape \[B, C, K, T\]",
        ),
        (lambda _: patterns.split_channels(torch.zeros(1, 3, 4), 2), "for 2 channels, got"),
    ],
)
def test_a_wrong_shape_says_what_was_expected(use, message):
    with pytest.raises(ValueError, match=message):
        use(flattened(2, codebook_size=4).layout(5))


@pytest.mark.gpu
def test_a_layout_moves_to_where_its_tokens_are():
    tokens = some_tokens(4, 9)
    for pattern in patterns_of(4):
        layout = pattern.layout(9)
        sequence = layout.build(tokens.cuda(), empty=EMPTY)
        assert torch.equal(sequence.cpu(), layout.build(tokens, empty=EMPTY))
        assert torch.equal(layout.revert(sequence).cpu(), tokens)
        assert layout.to(sequence.device) is layout.to(sequence.device)
