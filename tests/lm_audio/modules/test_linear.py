"""Rows of a linear layer do not depend on their number."""

import pytest
import torch
import torch.nn.functional as F

from lm_audio.modules.linear import Linear


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("width", "out"), [(32, 96), (256, 768), (1024, 1024)])
def test_a_row_is_the_same_bit_for_bit_among_any_number_of_rows(
    width: int, out: int, threads: int
) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = Linear(width, out), torch.randn(40, width)
        with torch.no_grad():
            whole = layer(x)
            for count in (1, 2, 3, 5, 7, 8, 9, 17, 33):
                assert torch.equal(layer(x[:count]), whole[:count])
                assert torch.equal(layer(x[3 : 3 + count, None])[:, 0], whole[3 : 3 + count])
    finally:
        torch.set_num_threads(before)


def test_it_is_the_linear_map_that_it_names() -> None:
    torch.manual_seed(0)
    layer, x = Linear(6, 4), torch.randn(2, 3, 6)
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    assert torch.equal(layer(x), expected)  # with gradients nothing is padded
    layer(x).sum().backward()
    assert layer.weight.grad is not None
