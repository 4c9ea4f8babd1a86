"""Attention in bfloat16 against attention in float64, each query against itself in company."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.networks.cpu import kernels
from lm_audio.networks.cpu.attention import attention


@pytest.fixture(autouse=True)
def compiled() -> Iterator[None]:
    if not kernels.attends():
        pytest.skip("this CPU does not multiply bfloat16, or has no compiler")
    with torch.inference_mode():
        yield


def new(*, heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as projections lay them out: [B, S, H, D] in memory."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, heads, width).bfloat16() for n in (queries, keys, keys))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def calls_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("torch's attention was called")

    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)


@pytest.mark.parametrize("width", [2, 16, 32, 40, 64, 80, 128])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (7, 15), (50, 17), (97, 64), (3, 300)])
def test_equals_attention_in_float64(
    queries: int, keys: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = new(heads=3, queries=queries, keys=keys, width=width)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    calls_kernel(monkeypatch)
    found = attention(q, k, v)
    assert found.dtype == torch.bfloat16
    # Weights and results are rounded to 8 bits.
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=1e-2)
    assert (found - expected).abs().mean() < 3e-3


def test_large_scores_pick_one_value() -> None:
    q, k, v = new(heads=1, queries=5, keys=40, width=16)
    found = attention(q * 1000, k * 1000, v)
    best = (q.double() @ k.double().transpose(-1, -2)).argmax(-1)
    expected = torch.gather(v, 2, best[..., None].expand(-1, -1, -1, 16))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_bits_do_not_depend_on_company(threads: int) -> None:
    q, k, v = new(heads=4, queries=101, keys=77, width=48)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    whole = attention(q, k, v)
    for first, last in ((0, 1), (5, 12), (48, 101)):
        assert torch.equal(attention(q[:, :, first:last], k, v), whole[:, :, first:last])
    assert torch.equal(attention(q[1:, 2:3], k[1:, 2:3], v[1:, 2:3]), whole[1:, 2:3])
    torch.set_num_threads(before)


def test_masks_and_gradients_use_torch() -> None:
    q, k, v = new(heads=2, queries=4, keys=6, width=16)
    mask = torch.tensor([True, True, False, True, True, False])
    found = attention(q, k, v, mask[None])
    torch.testing.assert_close(found, attention(q, k[:, :, mask], v[:, :, mask]), atol=2e-2, rtol=0)
    with torch.inference_mode(False), torch.enable_grad():
        q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
        attention(q, k, v).float().sum().backward()
    assert q.grad is not None
