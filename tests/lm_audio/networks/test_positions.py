"""Positions against closed forms and against transformers."""

import math

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from lm_audio.networks.positions import RelativeBias, partly_rotated, rotate, rotation, sinusoids


def test_sinusoids_are_cosines_and_sines_of_falling_frequencies() -> None:
    made = sinusoids(torch.tensor([[0, 3, 700]]), 8)
    for i, position in enumerate((0, 3, 700)):
        angles = [position / 10_000 ** (j / 3) for j in range(4)]
        expected = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
        torch.testing.assert_close(made[0, i], torch.tensor(expected), atol=1e-4, rtol=0)


def test_rotation_turns_pairs_so_that_products_depend_on_distances_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(at_q: int, at_k: int) -> float:
        turned_q = rotate(q, rotation(torch.tensor([[at_q]]), 8))
        turned_k = rotate(k, rotation(torch.tensor([[at_k]]), 8))
        return float((turned_q * turned_k).sum())

    assert product(5, 2) == pytest.approx(product(103, 100), abs=1e-4)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)
    pair = torch.complex(q[..., 0], q[..., 4]) * torch.exp(torch.tensor(7j))
    turned = rotate(q, rotation(torch.tensor([[7]]), 8))
    torch.testing.assert_close(turned[..., 0], pair.real)
    torch.testing.assert_close(turned[..., 4], pair.imag)


@pytest.mark.parametrize("causal", [True, False])
def test_relative_biases_use_the_buckets_of_t5(causal: bool) -> None:
    bias = RelativeBias(1, causal=causal)
    bias.weight.data[:, 0] = torch.arange(32.0)  # so that a bias names its bucket
    queries, keys = torch.arange(300)[None], torch.arange(300)[None]
    expected = T5Attention._relative_position_bucket(
        keys[0][None] - queries[0][:, None], bidirectional=not causal
    )
    found = bias(queries, keys)[0, 0].long()
    if causal:  # T5 puts all keys ahead into the bucket of distance 0
        assert torch.equal(found.tril(), expected.tril())
    # T5's own buckets count the keys ahead of the query in the upper half, and so do these
    else:
        assert torch.equal(found, expected)


def test_the_second_half_of_a_head_stays_and_products_depend_on_distances_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def product(first: int, second: int) -> torch.Tensor:
        turned = [
            partly_rotated(x, rotation(torch.tensor([[place]]), 4))
            for x, place in ((q, first), (k, second))
        ]
        assert torch.equal(turned[0][..., 4:], q[..., 4:])
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(3, 7), product(103, 107), atol=1e-5, rtol=0)
    assert not torch.allclose(product(3, 7), product(3, 8))
