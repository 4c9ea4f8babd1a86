"""Optional operators in C++, compiled once per machine.

They need a C++ compiler and ninja; without them, callers use torch's operators.
`LM_AUDIO_KERNELS=0` in the environment disables them.
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from audio_tokenizers.atomic import replacing

logger = logging.getLogger(__name__)

# Square roots of vectors need no errno.
_FLAGS = ["-O3", "-fopenmp", "-fno-math-errno"]


@dataclass(frozen=True, kw_only=True)
class Operators:
    """A library of torch operators.

    Args:
        name: of the files in the user's cache.
        purpose: what is slower without them, for messages.
        seconds: about how long compilation takes.
    """

    name: str
    sources: tuple[Path, ...]
    purpose: str
    seconds: int

    @functools.cached_property
    def library(self) -> Path:
        return _cache_folder() / f"{self.name}-{self._key()}.so"

    @functools.cache  # noqa: B019  # a few constants
    def load(self) -> bool:
        """Loads the library, and compiles it if necessary; returns whether torch.ops has it."""
        if os.environ.get("LM_AUDIO_KERNELS") == "0":
            return False
        library = self.library
        failed = library.with_suffix(".failed")
        try:
            if not library.is_file():
                if failed.is_file() or not _finds_compiler():
                    return False
                self._compile()
            torch.ops.load_library(library)
        except Exception as error:  # from a compiler, a linker or a disk
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning(
                "The CPU kernels are unavailable, so %s is slower (%s). Delete %s to retry.",
                self.purpose,
                reason,
                failed,
            )
            with contextlib.suppress(OSError):
                failed.write_text(f"{error}\n")
            return False
        return True

    def _compile(self) -> None:
        """Compiles in a separate process, because torch also loads what it compiles."""
        logger.warning(
            "Compiling the CPU kernels for %s (once per machine, about %d s).",
            self.purpose,
            self.seconds,
        )
        self.library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            given = (self.name, [str(path) for path in self.sources], folder)
            done = subprocess.run(
                [sys.executable, "-c", f"from {__name__} import build; build{given!r}"],
                env=os.environ | {"PATH": _path()},
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            made = Path(folder) / f"{self.name}.so"
            if not made.is_file():
                raise RuntimeError(_error(done.stdout + done.stderr) or "no output")
            with replacing(self.library) as path:
                shutil.copyfile(made, path)

    def _key(self) -> str:
        """A cache key of everything that the compiled file depends on."""
        parts = [
            *(path.read_text() for path in self.sources),
            *_flags(),
            torch.__version__,
            sys.platform,
            platform.machine(),
            _cpu(),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build(name: str, sources: Sequence[str], folder: str) -> None:
    """Compiles sources into a folder."""
    from torch.utils.cpp_extension import load

    # Not linked to OpenMP: uses torch's copy and shares its threads.
    load(
        name,
        list(sources),
        extra_cflags=_flags(),
        build_directory=folder,
        is_python_module=False,
    )


def _flags() -> list[str]:
    """For this CPU, or for one with AVX2 where ATEN_CPU_CAPABILITY limits torch to that, too."""
    limited = os.environ.get("ATEN_CPU_CAPABILITY") == "avx2"
    return [*_FLAGS, "-march=x86-64-v3" if limited else "-march=native"]


def _error(output: str) -> str:
    lines = [line for line in output.splitlines() if "error" in line.lower()]
    return lines[0].strip() if lines else ""


def _finds_compiler() -> bool:
    programs = ("ninja", os.environ.get("CXX", "c++"))
    return all(shutil.which(program, path=_path()) for program in programs)


def _path() -> str:
    """PATH plus Python's folder, where pip installs ninja."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lm-audio"


@functools.cache
def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = info.read_text().splitlines()
    return "".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))
