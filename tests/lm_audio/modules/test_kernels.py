"""The CPU kernels against plain products and softmaxes, and each row against itself in company."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.modules import kernels
from lm_audio.modules.positions import rotate, rotation


@pytest.fixture(autouse=True)
def compiled() -> None:
    if not kernels.available():
        pytest.skip("the CPU kernels cannot be compiled here")


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(70, 100), (64, 64), (300, 1)])
@pytest.mark.parametrize("num_rows", [1, 2, 6, 7, 40])
def test_panels_multiply_as_the_weights_do(
    num_rows: int, num_inputs: int, num_outputs: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(num_outputs, num_inputs, dtype=dtype)
    x, bias = torch.randn(num_rows, num_inputs), torch.randn(num_outputs)
    panels = kernels.panels(weight)
    found = kernels.multiply(x, panels, bias, num_outputs)
    expected = F.linear(x.double(), weight.double(), bias.double()).float()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(kernels.from_panels(panels, num_outputs), weight)
    assert kernels.multiply(x[:0], panels, bias, num_outputs).shape == (0, num_outputs)


@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(70, 100), (512, 64)])
def test_bytes_multiply_exactly(num_inputs: int, num_outputs: int) -> None:
    if not kernels.multiplies_bytes():
        pytest.skip("this CPU has no VNNI")
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    x = torch.randint(-127, 128, (9, num_inputs)).float()
    x[:, 0] = 127  # so that a step is 1
    scale, sums = torch.rand(num_outputs), weight.sum(dim=1, dtype=torch.int32)
    found = kernels.multiply_bytes(x, kernels.byte_panels(weight), scale, sums, None)
    expected = (x.double() @ weight.double().T * scale.double()).float()
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-6)


def caches(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    shape = (3, 2, 90, 48)  # rows, heads, positions, width
    return torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)


LENGTHS = torch.tensor([1, 33, 90])


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@torch.no_grad()
def test_attention_of_new_positions_is_softmax(
    window: int | None, biased: bool, turned: bool, dtype: torch.dtype, bound: float
) -> None:
    keys, values = caches(dtype)
    kept = keys.clone(), values.clone()
    q, k, v = (5 * torch.randn(3, 2, 1, 48) for _ in range(3))
    bias = torch.randn(3, 2, 90) if biased else None
    by = rotation(LENGTHS[:, None] - 1, 48) if turned else None
    found = kernels.attend(
        q, keys, values, lengths=LENGTHS, new=(k, v), window=window, bias=bias, rotation=by
    )
    if by is not None:
        q, k = rotate(q, by), rotate(k, by)
    for row, length in enumerate(LENGTHS.tolist()):
        own_keys, own_values = (x[row, :, :length].float() for x in kept)
        own_keys[:, -1], own_values[:, -1] = k[row, :, 0], v[row, :, 0]
        scores = (q[row] @ own_keys.transpose(1, 2))[:, 0] / 48**0.5
        if bias is not None:
            scores = scores + bias[row, :, :length]
        if window is not None:
            scores[:, : max(0, length - window)] = -torch.inf
        expected = (torch.softmax(scores, dim=-1)[:, None] @ own_values)[:, 0]
        error = (found[row, :, 0] - expected).norm() / expected.norm()
        assert error < bound
        new_key = k[row, :, 0].to(dtype)
        torch.testing.assert_close(keys[row, :, length - 1], new_key, atol=1e-6, rtol=1e-2)
        assert torch.equal(keys[row, :, : length - 1], kept[0][row, :, : length - 1])
        assert torch.equal(keys[row, :, length:], kept[0][row, :, length:])


@torch.no_grad()
def test_bfloat16_is_rounded_to_the_nearest_as_torch_does() -> None:
    keys, values = caches(torch.bfloat16)
    q, k, v = (torch.randn(3, 2, 1, 48) for _ in range(3))
    kernels.attend(q, keys, values, lengths=LENGTHS, new=(k, v))
    for row, length in enumerate(LENGTHS.tolist()):
        assert torch.equal(keys[row, :, length - 1], k[row, :, 0].bfloat16())
        assert torch.equal(values[row, :, length - 1], v[row, :, 0].bfloat16())


@pytest.mark.usefixtures("threads")
@torch.no_grad()
def test_a_row_attends_the_same_bit_for_bit_in_any_company() -> None:
    keys, values = caches()
    q = torch.randn(3, 2, 1, 48)
    together = kernels.attend(q, keys, values, lengths=LENGTHS)
    for row in range(3):
        one = slice(row, row + 1)
        alone = kernels.attend(q[one], keys[one], values[one], lengths=LENGTHS[one])
        assert torch.equal(alone, together[one])
    longer = [torch.cat([x, torch.full_like(x, torch.nan)], dim=2) for x in (keys, values)]
    assert torch.equal(kernels.attend(q, *longer, lengths=LENGTHS), together)


@torch.no_grad()
def test_numbers_do_not_depend_on_the_threads() -> None:
    torch.manual_seed(0)
    x, panels = torch.randn(7, 600), kernels.panels(torch.randn(700, 600))
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(kernels.multiply(x, panels, None, 700))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def ask(setting: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    code = "from lm_audio.modules import kernels; print(kernels.available())"
    return subprocess.run(
        [sys.executable, "-c", code], env=setting, capture_output=True, text=True, check=True
    )


def test_they_can_be_left_alone_and_are_not_compiled_without_a_compiler(tmp_path: Path) -> None:
    without = ask({"LM_AUDIO_KERNELS": "0"})
    assert (without.stdout, without.stderr) == ("False\n", "")
    lacking = ask({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})
    assert (lacking.stdout, lacking.stderr) == ("False\n", "")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_costs_a_line_and_nothing_else(tmp_path: Path) -> None:
    for name in ("c++", "ninja"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho error: out of ink >&2\nexit 1\n")
        program.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    done = ask({"PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)})
    assert done.stdout == "False\n"
    assert "Compiling the CPU kernels" in done.stderr
    assert "decoding is slower" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "cache").rglob("*.so"))
