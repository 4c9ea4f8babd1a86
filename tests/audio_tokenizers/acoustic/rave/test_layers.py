"""Layers against torch's convolutions, and their streams against whole calls."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.acoustic.rave.layers import Chain, Conv, Downsample, Layer, Residual, Upsample


def kernel(layer: Conv | Downsample, *, taps: int) -> Tensor:
    """The layer's weight as torch's convolutions have it: [out, in, taps]."""
    return layer.weight.unflatten(1, (taps, -1)).transpose(1, 2)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (3, 9), (7, 1)])
def test_a_convolution_is_that_of_torch(taps: int, dilation: int, causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = Conv(5, 6, kernel=taps, dilation=dilation, causal=causal), torch.randn(2, 40, 5)
    past = (taps - 1) * dilation
    padding = (past, 0) if causal else (past // 2, past // 2)
    weight = kernel(layer, taps=taps)
    wanted = F.conv1d(F.pad(x.transpose(1, 2), padding), weight, dilation=dilation)
    torch.testing.assert_close(layer(x), wanted.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ratio", [2, 4])
def test_a_strided_convolution_is_that_of_torch(ratio: int, causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = Downsample(5, 6, ratio=ratio, causal=causal), torch.randn(2, 40, 5)
    padding = (ratio, 0) if causal else (ratio // 2, ratio // 2)
    weight = kernel(layer, taps=2 * ratio)
    wanted = F.conv1d(F.pad(x.transpose(1, 2), padding), weight, stride=ratio)
    torch.testing.assert_close(layer(x), wanted.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("ratio", [2, 4])
def test_a_transposed_convolution_is_that_of_torch(ratio: int, causal: bool) -> None:
    torch.manual_seed(0)
    layer, x = Upsample(5, 6, ratio=ratio, causal=causal), torch.randn(2, 40, 5)
    # [ratio * out, (row before, row) * in] -> [in, out, taps]: a row's own results come first.
    parts = layer.weight.unflatten(0, (ratio, 6)).unflatten(2, (2, 5))
    weight = torch.cat([parts[:, :, 1], parts[:, :, 0]]).permute(2, 1, 0)
    whole = F.conv_transpose1d(x.transpose(1, 2), weight, stride=ratio)
    trimmed = whole[..., :-ratio] if causal else whole[..., ratio // 2 : -(ratio // 2)]
    torch.testing.assert_close(layer(x), trimmed.transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["conv", "down", "up", "residual"])
def test_a_stream_gives_the_bits_of_a_whole_call_as_soon_as_it_can(kind: str, causal: bool) -> None:
    torch.manual_seed(0)
    layers: dict[str, Layer] = {
        "conv": Conv(8, 8, kernel=3, dilation=3, causal=causal),
        "down": Downsample(8, 12, ratio=4, causal=causal),
        "up": Upsample(8, 12, ratio=4, causal=causal),
        "residual": Residual(Chain([Conv(8, 8, kernel=3, dilation=9, causal=causal)])),
    }
    layer, x = layers[kind], torch.randn(1, 64, 8)
    whole, stream = layer(x), layer.stream()
    late, found, start = layer.delay(Fraction(0)), [], 0
    for size in (1, 7, 0, 12, 30, 4, 10):
        found.append(stream.step(x[:, start : start + size], last=False))
        start += size
        ready = Fraction(start * whole.shape[1], 64) - late
        assert sum(part.shape[1] for part in found) == max(0, ready // 1)
    found.append(stream.step(x[:, start:], last=True))
    assert torch.equal(torch.cat(found, dim=1), whole)
