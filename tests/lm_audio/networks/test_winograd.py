import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lm_audio.networks import winograd
from lm_audio.networks.winograd import Conv3x3, Conv5, convolve, multiply, transform_kernel


@pytest.mark.parametrize("size", [(4, 4), (13, 7), (1, 30), (65, 3)])
def test_a_convolution_in_tiles_is_a_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 17, *size), torch.randn(5, 17, 3, 3), torch.randn(5)
    made = convolve(x, transform_kernel(weight), bias)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 2e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(4, 4), (13, 7), (1, 30)])
def test_a_convolution_as_a_product_is_a_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 17, *size), torch.randn(5, 17, 3, 3), torch.randn(5)
    expected = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(multiply(x, weight, bias), expected, atol=1e-4, rtol=1e-4)
    kept = weight.to(memory_format=torch.channels_last)
    torch.testing.assert_close(multiply(x, kept, bias), expected, atol=1e-4, rtol=1e-4)


def test_many_tiles_are_split_into_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, kernel = torch.randn(1, 3, 50, 9), transform_kernel(torch.randn(4, 3, 3, 3))
    whole = convolve(x, kernel, None)
    monkeypatch.setattr(winograd, "_MOST_TILES", 7)
    torch.testing.assert_close(convolve(x, kernel, None), whole)


def test_a_wide_layer_uses_tiles_without_gradients_and_learns_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(256, 256), torch.randn(1, 256, 32, 32)
    calls: list[torch.Size] = []

    def counted(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return convolve(x, *rest)

    monkeypatch.setattr(winograd, "convolve", counted)
    plain = layer(x)
    assert not calls
    assert plain.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain, atol=1e-4, rtol=1e-4)
        assert calls == [x.shape]
        few = x[..., :8, :8]
        expected = F.conv2d(few, layer.weight, layer.bias, padding=1)
        torch.testing.assert_close(layer(few), expected, atol=1e-4, rtol=1e-4)
        assert len(calls) == 1
        layer.train()
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(layer.eval()(x), 2 * plain, atol=2e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("length", [1024, 1027, 5001])
@pytest.mark.parametrize("widths", [(128, 160), (200, 128)])
def test_five_taps_in_time_are_those_of_torch(length: int, widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = Conv5(*widths)
    x = torch.randn(2, widths[0], length)
    expected = F.conv1d(
        x.double(),
        layer.weight.double(),
        layer.bias.double(),
        padding=2,  # type: ignore[union-attr]
    )
    made = layer(x)
    assert not torch.equal(made, nn.Conv1d.forward(layer, x))  # the other algorithm ran
    torch.testing.assert_close(made.double(), expected, atol=2e-5, rtol=0)
    assert torch.equal(layer(x[1:]), made[1:])


def test_five_taps_in_training_on_few_steps_and_channels_are_torchs_own() -> None:
    torch.manual_seed(0)
    for width, length, enabled in ((128, 1024, True), (128, 1000, False), (64, 2048, False)):
        layer, x = Conv5(width, width), torch.randn(1, width, length)
        with torch.set_grad_enabled(enabled):
            assert torch.equal(layer(x), nn.Conv1d.forward(layer, x))
