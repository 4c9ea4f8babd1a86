"""The CPU kernels against plain products and the modules, each row against itself in company."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lm_audio.networks.cpu import kernels
from lm_audio.networks.packing import Kind, pack
from lm_audio.networks.transformer import Transformer, TransformerConfig


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


def transformer(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    settings = {"dim": 64, "num_layers": 2, "num_heads": 2, "hidden_dim": 72} | changes
    made = Transformer(TransformerConfig(**settings)).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def steps(model: Transformer, x: Tensor, condition: Tensor | None, *, first: int = 3) -> Tensor:
    """What the steps of x [R, S, D] give, each row of which has a condition [R, L, D]: the same."""
    R, S, _ = x.shape
    cache = model.new_cache()
    for row in range(R):
        given = None if condition is None else condition[row : row + 1]
        model.prefill(x[row : row + 1, :first], condition=given, cache=cache)
    cache.reserve(R, S, 0)
    with torch.inference_mode():
        made = [
            model.step(
                x[:, i],
                rows=slice(0, R),
                positions=torch.full((R,), i),
                length=i + 1,
                cache=cache,
            )
            for i in range(first, S)
        ]
    return torch.stack(made, dim=1)


SHAPES = [
    {"positions": "rotary", "norm": "rms", "activation": "swiglu", "window": 20},
    {"positions": "sinusoidal", "norm": "layer", "activation": "gelu", "bias": True},
    {"positions": "relative", "norm": "layer", "norm_bias": False, "activation": "gelu"},
    {"positions": "learned", "num_positions": 100, "norm": "rms", "norm_eps": 1e-3},
]


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape["positions"])
@torch.no_grad()
def test_steps_by_the_kernels_are_those_of_the_modules(shape: dict[str, Any], cross: bool) -> None:
    model = transformer(cross_attention=cross, **shape)
    x, condition = torch.randn(3, 90, 64), torch.randn(3, 7, 64) if cross else None
    expected = steps(model, x, condition)
    pack(model)
    assert model.kernel_steps is not None
    torch.testing.assert_close(steps(model, x, condition), expected, atol=2e-5, rtol=2e-5)
    model.train()
    assert model.kernel_steps is None
    torch.testing.assert_close(steps(model.eval(), x, condition), expected, atol=0, rtol=0)


@pytest.mark.parametrize(("kind", "bound"), [("bfloat16", 0.02), ("int8", 0.1)])
@torch.no_grad()
def test_rounded_models_round_keys_and_values_too_and_stay_near(kind: str, bound: float) -> None:
    shape: dict[str, Any] = {"dim": 256, "hidden_dim": 512, "num_heads": 4}
    exact, rounded = (transformer(cross_attention=True, **shape) for _ in range(2))
    x, condition = torch.randn(2, 80, 256), torch.randn(2, 7, 256)
    if kind == "bfloat16":
        rounded.bfloat16()
    pack(rounded, "int8" if kind == "int8" else "same")
    if rounded.kernel_steps is None:
        pytest.skip("this CPU has no VNNI")
    expected, found = steps(exact, x, condition), steps(rounded, x, condition)
    assert 1e-4 < (found - expected).norm() / expected.norm() < bound
    dtype = torch.int8 if kind == "int8" else torch.bfloat16
    assert rounded.new_cache().all(0, slice(0, 1))[0].dtype == dtype


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", ["same", "int8"])
@torch.no_grad()
def test_a_row_takes_the_same_steps_bit_for_bit_in_any_company(kind: Kind) -> None:
    model = transformer(cross_attention=True)
    pack(model, kind)
    x, condition = torch.randn(9, 70, 64), torch.randn(9, 7, 64)
    together = steps(model, x, condition)
    for rows in ([0], [3], [8, 1], [2, 3, 4, 5, 6, 7, 8]):
        assert torch.equal(steps(model, x[rows], condition[rows]), together[rows])


@torch.no_grad()
def test_steps_do_not_depend_on_the_threads() -> None:
    model = transformer(cross_attention=True, dim=256, hidden_dim=700, num_heads=8)
    pack(model)
    x, condition = torch.randn(4, 50, 256), torch.randn(4, 7, 256)
    before, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(steps(model, x, condition, first=0))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("changes", [{"dim": 24}, {"hidden_dim": 70}], ids=str)
@torch.no_grad()
def test_shapes_that_the_kernels_do_not_know_are_left_to_the_modules(
    changes: dict[str, int],
) -> None:
    model = transformer(**changes)
    x = torch.randn(2, 10, model.config.dim)
    expected = steps(model, x, None)
    pack(model)
    assert model.kernel_steps is None
    torch.testing.assert_close(steps(model, x, None), expected, atol=2e-5, rtol=2e-5)


def ask(setting: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Asks a process of its own, in which Python stands in a folder without other programs."""
    code = "from lm_audio.networks.cpu import kernels; print(kernels.available())"
    code = f"import sys; sys.executable = {str(Path(setting['HOME']) / 'python')!r}; {code}"
    return subprocess.run(
        [sys.executable, "-c", code], env=setting, capture_output=True, text=True, check=True
    )


def test_they_can_be_left_alone_and_are_not_compiled_without_a_compiler(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    without = ask(home | {"LM_AUDIO_KERNELS": "0", "PATH": "/usr/bin:/bin"})
    assert (without.stdout, without.stderr) == ("False\n", "")
    lacking = ask(home)
    assert (lacking.stdout, lacking.stderr) == ("False\n", "")
    assert not list(tmp_path.iterdir())


def test_they_are_left_alone_on_processors_without_avx2(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    done = ask(home | {"ATEN_CPU_CAPABILITY": "default"})
    assert (done.stdout, done.stderr) == ("False\n", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("own", "faster"), [(1.0, True), (2.0, False), (3.0, False)])
def test_they_are_used_if_a_product_takes_them_less_time_than_torch(
    own: float,
    faster: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    measured = []

    def shortest(*calls: Callable[[], Tensor]) -> list[float]:
        measured.append([call().shape for call in calls])
        return [own, 2.0]

    monkeypatch.setattr(kernels, "_shortest", shortest)
    monkeypatch.setitem(kernels.KERNELS.__dict__, "library", tmp_path / "kernels.so")
    state = torch.get_rng_state()
    assert [kernels._are_faster() for _ in range(2)] == [faster, faster]
    assert torch.equal(torch.get_rng_state(), state)
    assert measured == [[(2, 1024), (2, 1024)]]  # once a machine
    assert ("are slower than torch" in caplog.text) != faster


@pytest.mark.slow
def test_all_of_this_holds_compiled_for_avx2() -> None:
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        pytest.skip("it was")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", __file__],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "skipped" not in done.stdout


def test_a_compiler_that_fails_costs_a_line_once_and_nothing_else(tmp_path: Path) -> None:
    for name in ("c++", "ninja", "python"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho error: out of ink >&2\nexit 1\n")
        program.chmod(0o755)
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path)}
    done = ask(home)
    assert done.stdout == "False\n"
    compiling, slower = done.stderr.splitlines()
    assert "Compiling the CPU kernels" in compiling
    assert "generation is slower (error: out of ink)" in slower
    assert not list(tmp_path.rglob("*.so"))
    again = ask(home)
    assert (again.stdout, again.stderr) == ("False\n", "")
