"""Rows stay rows: what makes streaming exact, against naive versions."""

import torch

from audio_tokenizers.acoustic.frame_codec.layers import (
    FrameStack,
    overlap_add,
)
from audio_tokenizers.acoustic.rows import row_linear


def test_row_linear_gives_a_row_the_same_bits_among_any_number_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 300, 384, generator=generator)
    weight, bias = torch.randn(1152, 384, generator=generator), torch.randn(1152)
    whole = row_linear(x, weight, bias)
    for length in (1, 2, 3, 5, 8, 31, 33, 100):
        for start in (0, 7, 200):
            part = row_linear(x[:, start : start + length], weight, bias)
            assert torch.equal(part, whole[:, start : start + length]), (length, start)


def test_row_linear_equals_a_matrix_product() -> None:
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(7, 5), torch.randn(7)
    expected = x.double() @ weight.double().T + bias
    torch.testing.assert_close(row_linear(x, weight, bias).double(), expected, atol=1e-5, rtol=0)


def test_a_frame_stack_equals_convolutions_with_explicit_padding() -> None:
    torch.manual_seed(0)
    stack = FrameStack(in_width=6, width=16, num_layers=2, kernel_size=5, lookahead=2).eval()
    x = torch.randn(2, 30, 6)
    state = stack.start(x)
    h, state = stack(x, state)
    streamed = torch.cat([h, stack.finish(state)], dim=1)

    padded = torch.nn.functional.pad(x.transpose(1, 2), (2, 2))
    taps = stack.embed.weight.unflatten(1, (5, 6)).permute(0, 2, 1)  # [out, in, kernel]
    y = torch.nn.functional.conv1d(padded, taps, stack.embed.bias)
    for block in stack.blocks:
        past = torch.nn.functional.pad(y, (4, 0))
        mixed = torch.nn.functional.conv1d(past, block.depthwise.T[:, None], groups=16)
        z = block.down(torch.nn.functional.gelu(block.up(block.norm(mixed.transpose(1, 2)))))
        y = y + (block.scale * z).transpose(1, 2)
    torch.testing.assert_close(streamed, stack.norm(y.transpose(1, 2)), atol=1e-5, rtol=1e-5)


def test_overlap_add_equals_a_loop() -> None:
    windows = torch.randn(2, 9, 20)
    expected = torch.zeros(2, 12 * 5)
    for number in range(9):
        expected[:, number * 5 : number * 5 + 20] += windows[:, number]
    hops = overlap_add(windows, overlap=4)
    torch.testing.assert_close(hops.flatten(1), expected[:, 15 : 15 + 6 * 5])
