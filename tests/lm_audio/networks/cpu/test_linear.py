"""Rows of a linear layer do not depend on their number."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lm_audio.networks.cpu.int8 import Int8Linear
from lm_audio.networks.cpu.linear import Linear


def plain(layer: Linear) -> nn.Module:
    return layer


def packed(layer: Linear) -> nn.Module:
    layer.pack()
    return layer


pytestmark = pytest.mark.usefixtures("backend")
LAYOUTS = [plain, packed, Int8Linear]
Layout = Callable[[Linear], nn.Module]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("width", "out"), [(32, 96), (256, 768), (1024, 1024), (704, 256)])
def test_a_row_is_the_same_bit_for_bit_among_any_number_of_rows(
    width: int, out: int, layout: Layout, threads: int
) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        layer, x = layout(Linear(width, out)), torch.randn(40, width)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_are_the_same_numbers(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Linear(70, 30).to(dtype), torch.randn(3, 5, 70, dtype=dtype)
    before = {name: weight.clone() for name, weight in layer.state_dict().items()}
    with torch.no_grad():
        expected = layer(x)
        try:
            layer.eval().pack()
        except RuntimeError as error:
            pytest.skip(str(error).splitlines()[0])  # torch packs bfloat16 for some CPUs only
        assert layer.packed
        torch.testing.assert_close(layer(x).to(dtype), expected)
    assert torch.equal(layer.state_dict()["weight"], before["weight"])
    assert layer(x.requires_grad_()).requires_grad  # what is before it can still learn
    learns = layer.weight.requires_grad
    layer.requires_grad_(not learns).train()  # what is to learn stays for the caller to say
    assert layer.weight.requires_grad is not learns
    assert torch.equal(layer.weight, before["weight"])


@pytest.mark.parametrize("bias", [True, False])
def test_bytes_are_near_the_layer_whose_weights_they_round(bias: bool) -> None:
    torch.manual_seed(0)
    layer = Linear(512, 256, bias=bias)
    layer.weight.data[0] *= 100  # an output that is larger than the others
    x = torch.randn(6, 512)
    x[0] *= 1e4
    x[1] = 0
    with torch.no_grad():
        expected, found = layer(x), Int8Linear(layer)(x)
    assert torch.equal(found[1], expected[1])
    rows = (found - expected)[:, 1:].norm(dim=1) / expected[:, 1:].norm(dim=1).clamp(min=1e-9)
    exact = Int8Linear(layer).by_kernel or torch.cpu._is_vnni_supported()
    assert 0.001 < rows.max() < (0.015 if exact else 0.025)
    of_first = (found - expected)[2:, 0].norm() / expected[2:, 0].norm()
    assert of_first < 0.03  # of four numbers only


def test_what_is_rounded_is_not_saved_as_if_it_were_not() -> None:
    with pytest.raises(ValueError, match="Load it as float32"):
        Int8Linear(Linear(8, 8)).state_dict()
