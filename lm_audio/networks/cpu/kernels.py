"""The optional CPU kernels of kernels.cpp and attention.cpp, compiled once per machine.

Without a compiler, torch's slower operators are used. Without AVX-512 they are faster than the
kernels, so they are used, too. `LM_AUDIO_KERNELS=0` in the environment disables the kernels.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from audio_tokenizers.atomic import replacing

logger = logging.getLogger(__name__)

SOURCES = [Path(__file__).with_name(name) for name in ("kernels.cpp", "attention.cpp")]
PANEL = 64
"""The number of outputs per panel of weights; the last panel is padded with zeros."""
HEAD_WIDTHS = range(16, 129, 16)
_NAME = "lm_audio_kernels"
_FLAGS = ["-O3", "-march=native", "-fopenmp"]


@functools.cache
def available() -> bool:
    """Whether torch.ops.lm_audio has the kernels; compiles them if necessary."""
    if os.environ.get("LM_AUDIO_KERNELS") == "0" or not _has_wide_registers():
        return False
    library = _cache_folder() / f"kernels-{_key()}.so"
    failed = library.with_suffix(".failed")
    try:
        if not library.is_file():
            if failed.is_file() or not _finds_compiler():
                return False
            _compile(library)
        torch.ops.load_library(library)
    except Exception as error:  # from a compiler, a linker or a disk
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning(
            "The CPU kernels are unavailable, so decoding is slower (%s). Delete %s to retry.",
            reason,
            failed,
        )
        with contextlib.suppress(OSError):
            failed.write_text(f"{error}\n")
        return False
    return True


def multiplies_bytes() -> bool:
    """Whether there is an int8 kernel, which needs a CPU with AVX-512 VNNI."""
    return available() and hasattr(torch.ops.lm_audio, "linear_int8")


def attends() -> bool:
    """Whether there is an attention kernel, which needs a CPU that multiplies bfloat16."""
    return available() and hasattr(torch.ops.lm_audio, "attend")


def panels(weight: Tensor) -> Tensor:
    """Weights [N, K] in the format of `multiply`: [P, K, 64]."""
    weight = F.pad(weight, (0, 0, 0, -len(weight) % PANEL))
    weight = weight.view(-1, PANEL, weight.shape[1]).transpose(1, 2)
    if weight.dtype == torch.bfloat16:  # two to a word, 16 outputs apart
        weight = weight.unflatten(2, (-1, 2, 16)).transpose(3, 4)
    return weight.reshape(*weight.shape[:2], PANEL).contiguous()


def from_panels(weight: Tensor, out_features: int) -> Tensor:
    """The weights [N, K] of panels [P, K, 64]."""
    if weight.dtype == torch.bfloat16:
        weight = weight.unflatten(2, (-1, 16, 2)).transpose(3, 4).flatten(2)
    return weight.transpose(1, 2).flatten(0, 1)[:out_features].contiguous()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """[M, N]: rows [M, K], float32, times weights in panels, float32 or bfloat16."""
    bias = None if bias is None else bias.float()
    return torch.ops.lm_audio.linear(x.float().contiguous(), weight, bias, out_features)


def byte_panels(weight: Tensor) -> Tensor:
    """Integers [N, K] in the format of `multiply_bytes`: [P, K / 4, 64, 4]."""
    weight = F.pad(weight, (0, -weight.shape[1] % 4, 0, -len(weight) % PANEL))
    return weight.view(-1, PANEL, weight.shape[1] // 4, 4).transpose(1, 2).contiguous()


def multiply_bytes(
    x: Tensor, weight: Tensor, scale: Tensor, sums: Tensor, bias: Tensor | None
) -> Tensor:
    """[M, N]: rows [M, K], quantised to bytes, times byte weights with a scale [N] each.

    Args:
        sums: [N], of the weights of each output.
    """
    return torch.ops.lm_audio.linear_int8(
        x.float().contiguous(), weight, scale, sums, bias, len(scale)
    )


def _compile(library: Path) -> None:
    """Compiles in a separate process, because torch also loads what it compiles."""
    logger.warning("Compiling the CPU kernels (once per machine, about 30 s).")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = f"from {__name__} import compile_into; compile_into({folder!r})"
        done = subprocess.run(
            [sys.executable, "-c", command],
            env=os.environ | {"PATH": _path()},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        made = Path(folder) / f"{_NAME}.so"
        if not made.is_file():
            raise RuntimeError(_error(done.stdout + done.stderr) or "no output from the compiler")
        with replacing(library) as path:
            shutil.copyfile(made, path)


def compile_into(folder: str) -> None:
    from torch.utils.cpp_extension import load

    # Not linked to OpenMP: uses torch's copy and shares its threads.
    sources = [str(path) for path in SOURCES]
    load(_NAME, sources, extra_cflags=_FLAGS, build_directory=folder, is_python_module=False)


def _error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line.lower()]
    return lines[0].strip() if lines else ""


def _has_wide_registers() -> bool:
    """Whether a product's 64 sums fit into registers: 32-byte registers spill, and the kernels are
    then 3 to 19 times slower than torch (docs/performance.md)."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _finds_compiler() -> bool:
    programs = ("ninja", os.environ.get("CXX", "c++"))
    return all(shutil.which(program, path=_path()) for program in programs)


def _path() -> str:
    """PATH plus Python's folder, where pip installs ninja."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lm-audio"


def _key() -> str:
    """A cache key of everything that the compiled file depends on."""
    parts = [
        *(path.read_text() for path in SOURCES),
        *_FLAGS,
        torch.__version__,
        sys.platform,
        platform.machine(),
        _cpu(),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text().splitlines()
    return "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
