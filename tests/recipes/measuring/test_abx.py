"""ABX against a naive version over all triplets, and alignment against a recursive one."""

from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from measuring.abx import (
    Item,
    Mode,
    abx_error,
    aligned_distance,
    angular_distance,
    read_items,
    token_distance,
    token_edits,
)


def naive_alignment(costs: np.ndarray) -> float:
    @cache
    def best(i: int, j: int) -> tuple[float, int]:
        """The least sum to a cell, and the length of its path."""
        if i == 0 or j == 0:
            path = costs[0, : j + 1] if i == 0 else costs[: i + 1, 0]
            return float(path.cumsum()[-1]), len(path)
        ways = [best(i - 1, j - 1), best(i, j - 1), best(i - 1, j)]
        total, length = min(ways, key=lambda way: way[0])
        return total + costs[i, j], length + 1

    total, length = best(costs.shape[0] - 1, costs.shape[1] - 1)
    return total / length


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 2), (6, 4), (5, 9)])
def test_alignment_is_that_of_the_recursion(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(shape)
    for costs in (random.random(shape), random.integers(2, size=shape).astype(float)):
        assert aligned_distance(costs) == pytest.approx(naive_alignment(costs))


def test_distances_in_closed_form() -> None:
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert angular_distance(x, y) == pytest.approx(0.5)
    assert angular_distance(x.repeat(5, 1), x) == pytest.approx(0.0, abs=1e-6)
    assert token_distance(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 2])) == 0.0
    assert token_distance(torch.tensor([1, 3]), torch.tensor([1, 2])) == 0.5
    assert token_edits(torch.tensor([1, 1, 2, 3]), torch.tensor([1, 3, 3])) == pytest.approx(1 / 3)


def random_items(seed: int) -> tuple[list[Item], list[Tensor]]:
    random = np.random.default_rng(seed)
    items, frames = [], []
    for number in range(60):
        category, context, speaker = (str(random.integers(n)) for n in (3, 2, 3))
        items.append(
            Item(
                file=str(number), onset=0, offset=1, category=category, context=context,
                speaker=speaker,
            )
        )  # fmt: skip
        centre = np.eye(4)[int(category)] + 0.3 * np.eye(4)[int(speaker)]
        noise = random.standard_normal((random.integers(1, 5), 4))
        frames.append(torch.from_numpy(centre + 0.8 * noise))
    return items, frames


def naive_error(items: list[Item], frames: list[Tensor], mode: Mode) -> float:
    cells: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for i, a in enumerate(items):
        for j, b in enumerate(items):
            if b.category == a.category or (b.context, b.speaker) != (a.context, a.speaker):
                continue
            for k, x in enumerate(items):
                if k == i or (x.category, x.context) != (a.category, a.context):
                    continue
                if (x.speaker == a.speaker) != (mode == "within"):
                    continue
                near = angular_distance(frames[k], frames[i])
                far = angular_distance(frames[k], frames[j])
                cell = (a.category, b.category, a.speaker, a.context, x.speaker)
                cells[cell].append(0.5 if near == far else float(near > far))
    means: dict[tuple[str, ...], list[float]] = {k: [float(np.mean(v))] for k, v in cells.items()}
    for depth in (3, 2, 0):  # over contexts and speakers of X, then speakers, then pairs
        groups: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for key, values in means.items():
            groups[key[:depth]] += values
        means = {key: [float(np.mean(values))] for key, values in groups.items()}
    return means[()][0]


@pytest.mark.parametrize("mode", ["within", "across"])
def test_the_error_is_that_of_all_triplets(mode: Mode) -> None:
    items, frames = random_items(1)
    got = abx_error(items, frames, angular_distance, mode=mode, most_of_a_kind=99, most_speakers=99)
    assert got == pytest.approx(naive_error(items, frames, mode))


def test_equal_frames_are_a_tie_and_separate_kinds_no_error() -> None:
    items, _ = random_items(2)
    same = [torch.ones(2, 3)] * len(items)
    assert abx_error(items, same, angular_distance) == pytest.approx(0.5)
    clear = [torch.tensor([int(item.category)] * 3) for item in items]
    assert abx_error(items, clear, token_distance, mode="across") == 0.0


def test_draws_belong_to_the_seed() -> None:
    items, frames = random_items(3)
    draw = [
        abx_error(items, frames, angular_distance, most_of_a_kind=2, seed=seed)
        for seed in (0, 0, 2)
    ]
    assert draw[0] == draw[1] != draw[2]


def test_without_triplets_there_is_no_error_rate() -> None:
    items, frames = random_items(4)
    assert abx_error(items[:1], frames[:1], angular_distance) is None


def test_item_files_are_read_and_frames_are_those_whose_centres_lie_inside(tmp_path: Path) -> None:
    path = tmp_path / "dev.item"
    path.write_text("#file onset offset #phone prev next speaker\nf1 0.0 0.31 ah b k 26\n")
    (item,) = read_items(path)
    assert (item.category, item.context, item.speaker) == ("ah", "b+k", "26")
    assert item.frames(torch.arange(100), frame_rate=50).tolist() == list(range(15))
    path.write_text("head\nf1 0.0 0.1 ah\n")
    with pytest.raises(ValueError, match=r"Line 2 of .* has 4 fields; expected 7"):
        read_items(path)
